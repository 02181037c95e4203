"""The information model of query/retrieve: its levels and their keys, and a request's identifier.

References: PS3.4 section C.6 (information models).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from db.records import AttributeValue

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


@dataclass(frozen=True, kw_only=True)
class Identifier:
    """The identifier of a request: its level and its keys, with None for an empty key."""

    level: str
    keys: Mapping[str, AttributeValue]

    def values(self, keyword: str) -> list[str]:
        """The values of a key; empty if the key is absent or has no value."""
        value = self.keys.get(keyword)
        return [value] if isinstance(value, str) else list(value or ())
