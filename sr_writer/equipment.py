"""The node and the model as the equipment of a result.

References: PS3.3 sections C.7.5.1 (General Equipment) and C.12.1 (Contributing Equipment Sequence); IHE Radiology,
AI Results, where the algorithm is contributing equipment with its own Device UID.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.valuerep import DT

from inference.findings import ModelIdentity
from sr_writer.context import ReportContext
from sr_writer.elements import code_sequence, item, text_element
from sr_writer.strings import LONG_STRING, plain
from sr_writer.uids import device_uid

DEMONSTRATION_NOTICE = "demonstration model, not for clinical use"
"""Notice in every object made with a bundled model."""

UNREVIEWED_NOTICE = "AI result, not reviewed"
"""Notice in every object."""


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """Names and UID of the model, as both the contributing equipment and the report's content give them."""

    manufacturer: str
    name: str
    version: str
    device_uid: str

    @classmethod
    def of_model(cls, model: ModelIdentity) -> Algorithm:
        """The algorithm for a model, with texts that fit into DICOM values."""
        return cls(
            manufacturer=plain(model.manufacturer, LONG_STRING) or "unknown",
            name=plain(model.name, LONG_STRING),
            version=plain(model.version, LONG_STRING),
            device_uid=device_uid(model.sha256, model.version),
        )


def contributing_equipment(algorithm: Algorithm, made_at: datetime, demonstration: bool) -> bytes:
    """Encoded item of Contributing Equipment Sequence (0018,A001) for the model."""
    return item(
        text_element("Manufacturer", algorithm.manufacturer),
        text_element("ManufacturerModelName", algorithm.name),
        text_element("DeviceUID", algorithm.device_uid),
        text_element("SoftwareVersions", algorithm.version),
        text_element("ContributionDateTime", str(DT(made_at))),
        text_element("ContributionDescription", DEMONSTRATION_NOTICE) if demonstration else b"",
        code_sequence("PurposeOfReferenceCodeSequence", codes.DCM.ProcessingEquipment),
    )


def set_general_equipment(dataset: Dataset, context: ReportContext) -> None:
    """Name the node as the equipment that made the object."""
    dataset.Manufacturer = plain(context.manufacturer, LONG_STRING)
    dataset.ManufacturerModelName = plain(context.model_name, LONG_STRING)
    dataset.SoftwareVersions = plain(context.software_version, LONG_STRING)
    if context.device_serial_number is not None:
        dataset.DeviceSerialNumber = plain(context.device_serial_number, LONG_STRING)
