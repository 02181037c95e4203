"""Headers of the source images, and what a result takes over from them unchanged.

Patient and study attributes are copied as encoded bytes together with the Specific Character Set:
no value is decoded, checked or repaired, so that an unusual name reaches the PACS as it came and
never stops a report.

References: PS3.3 sections C.7.1.1 (Patient), C.7.2.1 (General Study), C.7.2.2 (Patient Study),
C.17.2 (Referenced Request Sequence).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo

import pydicom
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.tag import Tag

from inference.findings import SourceImage
from sr_writer.encoded import encoded_text, encodings

IDENTITY_TYPE_2 = (
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
)
"""Type 2 attributes of the patient and the study: present in every result, empty where the source is."""

IDENTITY_TYPE_3 = (
    "StudyDescription",
    "PhysiciansOfRecord",
    "NameOfPhysiciansReadingStudy",
    "IssuerOfAccessionNumberSequence",
    "ProcedureCodeSequence",
    "ReferencedStudySequence",
    "AdmittingDiagnosesDescription",
    "IssuerOfPatientID",
    "IssuerOfPatientIDQualifiersSequence",
    "TypeOfPatientID",
    "PatientBirthTime",
    "OtherPatientIDsSequence",
    "PatientAge",
    "PatientSize",
    "PatientWeight",
    "PatientSpeciesDescription",
    "ClinicalTrialSponsorName",
    "ClinicalTrialProtocolID",
    "ClinicalTrialSubjectID",
    "TimezoneOffsetFromUTC",
)
"""Attributes that a result takes over where the source has them in a valid form."""

LEAST_COSINE = 0.05
"""A direction that is within 3 degrees of a right angle to an axis of the patient has no part along it."""

_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "SH": re.compile(r"(?s)[^\\]{0,16}"),
    "LO": re.compile(r"(?s)[^\\]{0,64}"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
}
"""What optional values have to look like (PS3.5 section 6.2); a wrong one would make the result wrong."""

_REQUEST_TYPE_2 = (
    "RequestedProcedureID",
    "RequestedProcedureDescription",
    "RequestedProcedureCodeSequence",
    "ReferencedStudySequence",
    "AccessionNumber",
    "PlacerOrderNumberImagingServiceRequest",
    "FillerOrderNumberImagingServiceRequest",
)

_REQUEST_TYPE_3 = ("ReasonForTheRequestedProcedure", "IssuerOfAccessionNumberSequence")

_OTHERS = (
    "SpecificCharacterSet",
    "Modality",
    "BodyPartExamined",
    "Laterality",
    "ImageLaterality",
    "PatientOrientation",
    "ImageOrientationPatient",
    "AnatomicalOrientationType",
    "RequestAttributesSequence",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
    "SamplesPerPixel",
    "BitsAllocated",
    "NumberOfFrames",
)


class SourceHeader:
    """The part of a source image's header that results need. Pixels are not read."""

    def __init__(self, image: SourceImage) -> None:
        keywords = {*IDENTITY_TYPE_2, *IDENTITY_TYPE_3, *_OTHERS}
        self._dataset = pydicom.dcmread(
            image.path, stop_before_pixels=True, force=True, specific_tags=sorted(keywords)
        )
        self.image = image
        self.file_size = image.path.stat().st_size

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID of the file, empty where it has no file meta information."""
        return str(getattr(self._dataset, "file_meta", Dataset()).get("TransferSyntaxUID", ""))

    def text(self, keyword: str) -> str:
        """Value of a string attribute, empty where it is absent; several values stay joined."""
        return encoded_text(self._dataset, keyword)

    def number(self, keyword: str, default: int) -> int:
        """Value of a number attribute, ``default`` where it is absent or no number."""
        try:
            return int(self._dataset.get(keyword) or default)
        except (TypeError, ValueError):
            return default

    def timezone(self) -> tzinfo | None:
        """The offset that the source's own dates and times have, where it says so (0008,0201)."""
        try:
            offset = datetime.strptime(self.text("TimezoneOffsetFromUTC"), "%z").utcoffset()
        except ValueError:
            return None
        return timezone(offset) if offset is not None and abs(offset) < timedelta(days=1) else UTC

    def _is_well_formed(self, keyword: str) -> bool:
        """Whether an attribute is a sequence, free text, or has the form of its value representation."""
        form = _FORMS.get(dictionary_VR(Tag(keyword)))
        return form is None or form.fullmatch(self.text(keyword)) is not None

    def copy_identity(self, target: Dataset) -> None:
        """Gives ``target`` the patient, the study and the character set of the source."""
        self._copy(target, "SpecificCharacterSet")
        for keyword in IDENTITY_TYPE_2:
            self._copy(target, keyword, empty_if_absent=True)
        for keyword in IDENTITY_TYPE_3:
            if self._is_well_formed(keyword):
                self._copy(target, keyword)
        if self.text("DeidentificationMethod").strip():
            # The one is required where the other says YES, and some sources leave it empty.
            self._copy(target, "PatientIdentityRemoved")
            self._copy(target, "DeidentificationMethod")
        target.StudyInstanceUID = self.image.study_instance_uid
        # Explicit VR Little Endian, as results are written: pydicom then writes the copied bytes as
        # they are.
        target.set_original_encoding(False, True, encodings(target))

    def copy_series_context(self, target: Dataset) -> None:
        """Gives ``target`` the body part, the laterality and the orientation of the source.

        Slices have an Image Orientation (Patient) instead of a Patient Orientation, which derives from it.
        """
        self._copy(target, "BodyPartExamined")
        # The side of the image stands instead of that of its series (PS3.3 section C.7.3.1).
        of_image = self.text("ImageLaterality") in ("L", "R", "U", "B")
        self._copy(target, "ImageLaterality" if of_image else "Laterality")
        self._copy(target, "PatientOrientation", empty_if_absent=True)
        if not self.text("PatientOrientation") and self.text("AnatomicalOrientationType") != "QUADRUPED":
            target.PatientOrientation = _patient_orientation(self.text("ImageOrientationPatient"))

    def referenced_requests(self) -> list[Dataset]:
        """Items of the Referenced Request Sequence (0040,A370), one for each request of the source."""
        items = self._dataset.get("RequestAttributesSequence") or []
        return [self._referenced_request(item) for item in items]

    def _referenced_request(self, request: Dataset) -> Dataset:
        item = Dataset()
        item.StudyInstanceUID = self.image.study_instance_uid
        for keyword in _REQUEST_TYPE_2:
            _copy_element(request, item, keyword, empty_if_absent=True)
        for keyword in _REQUEST_TYPE_3:
            _copy_element(request, item, keyword)
        if not encoded_text(item, "AccessionNumber"):
            _copy_element(self._dataset, item, "AccessionNumber", empty_if_absent=True)
        item.set_original_encoding(False, True, encodings(item))
        return item

    def _copy(self, target: Dataset, keyword: str, *, empty_if_absent: bool = False) -> None:
        _copy_element(self._dataset, target, keyword, empty_if_absent=empty_if_absent)


def _patient_orientation(image_orientation: str) -> list[str]:
    """Patient Orientation (0020,0020) of a human from Image Orientation (Patient) (0020,0037) as text.

    Two values, the directions of the rows and of the columns: the letters of the patient's axes, the
    nearest first (PS3.3 section C.7.6.1.1.1). Empty where the text is not two directions.
    """
    try:
        numbers = [float(part) for part in image_orientation.split("\\")]
    except ValueError:
        return []
    if len(numbers) != 6 or not all(abs(number) <= 1.01 for number in numbers):
        return []
    directions = [_letters(numbers[:3]), _letters(numbers[3:])]
    return directions if all(directions) else []


def _letters(direction: Sequence[float]) -> str:
    """Letters of a direction (x, y, z in LPS); an axis that it is almost at a right angle to adds none."""
    parts = sorted(zip(direction, ("RL", "AP", "FH"), strict=True), key=lambda part: -abs(part[0]))
    return "".join(pair[part > 0] for part, pair in parts if abs(part) >= LEAST_COSINE)


def _copy_element(source: Dataset, target: Dataset, keyword: str, *, empty_if_absent: bool = False) -> None:
    tag = Tag(keyword)
    vr = dictionary_VR(tag)
    if tag not in source:
        if empty_if_absent:
            target.add_new(tag, vr, None)
        elif tag in target:
            del target[tag]
    elif vr == "SQ":
        target.add_new(tag, vr, source[tag].value)
    else:
        # Strings have the same bytes in every transfer syntax, so only the VR may have to be added.
        element = source.get_item(tag)
        if isinstance(element, RawDataElement):
            element = element._replace(VR=vr, is_implicit_VR=False, is_little_endian=True)
        target[tag] = element
