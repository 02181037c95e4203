"""Identifiers of query/retrieve: reading what a peer asks for and writing what we answer.

References: PS3.4 sections C.4.1.1.3 and C.6 (identifier structure and information models).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom import config
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pynetdicom.dsutils import encode

from handlers.dimse.uids import IMPLICIT_LITTLE, PATIENT_ROOT_FIND, PATIENT_ROOT_GET, PATIENT_ROOT_MOVE
from handlers.errors import ScanError
from handlers.spool.scan import AttributeValue, scan

LEVELS = ("PATIENT", "STUDY", "SERIES", "IMAGE")
UNIQUE_KEYS = dict(
    zip(LEVELS, ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"), strict=True)
)
LEVEL_KEYS: Mapping[str, tuple[str, ...]] = {
    "PATIENT": (
        "PatientName",
        "PatientID",
        "IssuerOfPatientID",
        "PatientBirthDate",
        "PatientBirthTime",
        "PatientSex",
        "NumberOfPatientRelatedStudies",
        "NumberOfPatientRelatedSeries",
        "NumberOfPatientRelatedInstances",
    ),
    "STUDY": (
        "StudyDate",
        "StudyTime",
        "AccessionNumber",
        "ModalitiesInStudy",
        "SOPClassesInStudy",
        "ReferringPhysicianName",
        "StudyDescription",
        "PatientAge",
        "StudyInstanceUID",
        "StudyID",
        "NumberOfStudyRelatedSeries",
        "NumberOfStudyRelatedInstances",
    ),
    "SERIES": (
        "SeriesDate",
        "SeriesTime",
        "Modality",
        "Manufacturer",
        "SeriesDescription",
        "BodyPartExamined",
        "Laterality",
        "SeriesInstanceUID",
        "SeriesNumber",
        "NumberOfSeriesRelatedInstances",
    ),
    "IMAGE": (
        "ImageType",
        "SOPClassUID",
        "SOPInstanceUID",
        "ContentDate",
        "ContentTime",
        "InstanceNumber",
        "NumberOfFrames",
        "Rows",
        "Columns",
        "BitsAllocated",
        "CompletionFlag",
        "VerificationFlag",
    ),
}
KEYWORDS = frozenset(k for keys in LEVEL_KEYS.values() for k in keys) | {
    "QueryRetrieveLevel",
    "RetrieveAETitle",
}
COUNTS = frozenset(k for k in KEYWORDS if k.startswith("NumberOf") and "Related" in k)
PATIENT_ROOT = frozenset({PATIENT_ROOT_FIND, PATIENT_ROOT_MOVE, PATIENT_ROOT_GET})


class IdentifierError(Exception):
    """The identifier does not fit its SOP class; the message goes into the Error Comment."""


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """A request: its level and the keys that it has, None where a key is empty."""

    level: str
    keys: Mapping[str, AttributeValue]

    def values(self, keyword: str) -> list[str]:
        """The values of a key; empty where it is absent or empty."""
        value = self.keys.get(keyword)
        return [value] if isinstance(value, str) else list(value or ())


def read_identifier(data: bytes, transfer_syntax: str, sop_class_uid: str) -> Identifier:
    """Read the identifier of a C-FIND, C-MOVE or C-GET request.

    Raises:
        IdentifierError: it cannot be read, or its level is not one of the information model's.
    """
    try:
        attributes = scan(data, transfer_syntax, KEYWORDS)
    except ScanError as error:
        raise IdentifierError(str(error)) from error
    level = attributes.get("QueryRetrieveLevel")
    levels = LEVELS if sop_class_uid in PATIENT_ROOT else LEVELS[1:]
    if not isinstance(level, str) or level not in levels:
        raise IdentifierError("Query/Retrieve Level is missing or not of this model")
    keys = {keyword: value for keyword, value in attributes.items() if keyword in KEYWORDS}
    return Identifier(level=level, keys=keys)


def write_identifier(attributes: Mapping[str, str | Sequence[str]], transfer_syntax: str) -> bytes:
    """Encode attributes; text outside of ASCII as UTF-8, which is then declared."""
    dataset = Dataset()
    ascii_only = all(
        text.isascii()
        for value in attributes.values()
        for text in ([value] if isinstance(value, str) else value)
    )
    if not ascii_only:
        dataset.SpecificCharacterSet = "ISO_IR 192"
    for keyword, value in attributes.items():
        tag = tag_for_keyword(keyword)
        assert tag is not None
        vr = dictionary_VR(tag)
        listed = [value] if isinstance(value, str) else list(value)
        converted = (
            [int(text) for text in listed if text] if vr == "US" else [text for text in listed if text]
        )
        content = converted[0] if len(converted) == 1 else converted or None
        dataset.add(DataElement(tag, vr, content, validation_mode=config.IGNORE))
    buffer = DicomBytesIO()
    buffer.is_little_endian = True
    buffer.is_implicit_VR = transfer_syntax == IMPLICIT_LITTLE
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def encode_dataset(dataset: Dataset, transfer_syntax: str) -> bytes:
    """A dataset in one of the native little endian transfer syntaxes, without file meta information.

    Raises:
        ValueError: it cannot be encoded.
    """
    encoded = encode(dataset, transfer_syntax == IMPLICIT_LITTLE, True)
    if encoded is None:
        raise ValueError("the dataset cannot be encoded")
    return encoded
