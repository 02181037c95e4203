"""What all objects of a job share: patient, study, dates, equipment and file meta information.

References: PS3.3 sections C.7.3.1 (General Series) and C.12.1 (SOP Common), PS3.10 section 7.1.
"""

from __future__ import annotations

from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian

from inference.findings import ModelIdentity
from sr_writer.context import ReportContext
from sr_writer.elements import set_items
from sr_writer.equipment import (
    DEMONSTRATION_NOTICE,
    Algorithm,
    contributing_equipment,
    set_general_equipment,
)
from sr_writer.source import SourceHeader
from sr_writer.strings import LONG_STRING, plain
from sr_writer.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME


def complete_instance(
    dataset: Dataset, source: SourceHeader, context: ReportContext, model: ModelIdentity, *, title: str
) -> None:
    """Complete an object that already has its UIDs and its content.

    Everything that a clock or a library would choose is set from ``context``, so a rerun makes the same bytes.

    Args:
        dataset: the object.
        source: header of a source image.
        context: the job.
        model: the model.
        title: what the series holds, for Series Description.
    """
    made_at = context.content_datetime.astimezone(source.timezone() or context.timezone)
    date, time = made_at.strftime("%Y%m%d"), made_at.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.SeriesDate = dataset.ContentDate = date
    dataset.InstanceCreationTime = dataset.SeriesTime = dataset.ContentTime = time
    dataset.SeriesDescription = _series_description(context.engine_name, title, model)
    set_general_equipment(dataset, context)
    equipment = contributing_equipment(Algorithm.of_model(model), made_at, model.demonstration)
    set_items(dataset, "ContributingEquipmentSequence", [equipment])
    dataset.file_meta = _file_meta(dataset)
    source.copy_identity(dataset)


def _series_description(engine_name: str, title: str, model: ModelIdentity) -> str:
    """Series Description (0008,103E), in which only the start is cut if it is too long, so that a job's series differ.

    With the notice of a bundled model, there is no room for the node's name.
    """
    start, end = f"overread {engine_name}", f": {title}"
    if model.demonstration:
        start, end = engine_name, f" {title}: {DEMONSTRATION_NOTICE}"
    return plain(start, LONG_STRING - len(end)) + end


def _file_meta(dataset: Dataset) -> FileMetaDataset:
    meta = FileMetaDataset()
    meta.FileMetaInformationVersion = b"\x00\x01"
    meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = UID(IMPLEMENTATION_CLASS_UID)
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    return meta
