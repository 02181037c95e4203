"""Attributes of a result that a query can ask for.

References: PS3.4 section C.6 (query keys of the Patient Root and Study Root models).
"""

from __future__ import annotations

from pydicom.dataset import Dataset
from pydicom.tag import Tag

from sr_writer.encoded import encoded_text

AttributeValue = str | list[str] | None

QUERY_KEYWORDS = (
    "SpecificCharacterSet",
    "SOPClassUID",
    "SOPInstanceUID",
    "StudyDate",
    "SeriesDate",
    "ContentDate",
    "StudyTime",
    "SeriesTime",
    "ContentTime",
    "AccessionNumber",
    "Modality",
    "Manufacturer",
    "ReferringPhysicianName",
    "TimezoneOffsetFromUTC",
    "StudyDescription",
    "SeriesDescription",
    "PatientName",
    "PatientID",
    "IssuerOfPatientID",
    "PatientBirthDate",
    "PatientBirthTime",
    "PatientSex",
    "PatientAge",
    "BodyPartExamined",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "StudyID",
    "SeriesNumber",
    "InstanceNumber",
    "Laterality",
    "ImageType",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "BitsAllocated",
    "CompletionFlag",
    "VerificationFlag",
)

_TAGS = {keyword: Tag(keyword) for keyword in QUERY_KEYWORDS}


def result_attributes(dataset: Dataset) -> dict[str, AttributeValue]:
    """Query keys of an object by keyword, as text.

    An attribute that is present but empty is None, one with several values is a list. Absent attributes are left
    out.
    """
    values: dict[str, AttributeValue] = {}
    for keyword in QUERY_KEYWORDS:
        if _TAGS[keyword] in dataset:
            parts = encoded_text(dataset, keyword).split("\\")
            values[keyword] = (parts[0] or None) if len(parts) == 1 else parts
    concept = dataset.get("ConceptNameCodeSequence")
    if concept:
        values["ConceptNameCodeSequence"] = concept[0].CodeValue
    return values
