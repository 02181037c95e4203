"""Headers of the source images, and what a result copies from them unchanged.

Patient and study attributes are copied as encoded bytes, together with Specific Character Set. No required value is
decoded, checked or repaired, so an unusual name reaches the PACS as it was sent and never stops a report.

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
"""Type 2 attributes of the patient and the study: present in every result, empty if the source has no value."""

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
"""Optional attributes, copied to a result if the source has them in a valid form."""

LEAST_COSINE = 0.05
"""Smallest component of a direction along a patient's axis that counts: that of an angle of 87 degrees."""

_VALUE_FORMS = {
    "AS": re.compile(r"\d{3}[DWMY]"),
    "DS": re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?"),
    "TM": re.compile(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?"),
    "SH": re.compile(r"(?s)[^\\]{0,16}"),
    "LO": re.compile(r"(?s)[^\\]{0,64}"),
    "CS": re.compile(r"[A-Z0-9 _]{0,16}"),
}
"""Valid forms of optional values (PS3.5 section 6.2); an invalid one would make the result invalid."""

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

_OTHER_KEYWORDS = (
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

_TAGS = [Tag(keyword) for keyword in (*IDENTITY_TYPE_2, *IDENTITY_TYPE_3, *_OTHER_KEYWORDS)]


class SourceHeader:
    """The part of a source image's header that results need; pixels are not read.

    Raises:
        OSError: the file cannot be read.
        pydicom.errors.InvalidDicomError: the file is not DICOM.
    """

    def __init__(self, image: SourceImage) -> None:
        self._dataset = pydicom.dcmread(image.path, stop_before_pixels=True, force=True, specific_tags=_TAGS)
        self.image = image
        self.file_size = image.path.stat().st_size

    @property
    def transfer_syntax_uid(self) -> str:
        """Transfer Syntax UID of the file, empty if it has no file meta information."""
        return str(getattr(self._dataset, "file_meta", Dataset()).get("TransferSyntaxUID", ""))

    def text(self, keyword: str) -> str:
        """Value of an attribute as text, empty if it is absent; several values are joined by backslashes."""
        return encoded_text(self._dataset, keyword)

    def number(self, keyword: str, default: int) -> int:
        """Value of an attribute as a whole number, ``default`` if it is absent or no number."""
        try:
            return int(self._dataset.get(keyword) or default)
        except (TypeError, ValueError):
            return default

    def timezone(self) -> tzinfo | None:
        """The offset of the source's dates and times (0008,0201), None if it does not declare one."""
        try:
            offset = datetime.strptime(self.text("TimezoneOffsetFromUTC"), "%z").utcoffset()
        except ValueError:
            return None
        return timezone(offset) if offset is not None and abs(offset) < timedelta(days=1) else UTC

    def _is_well_formed(self, keyword: str) -> bool:
        """Whether an attribute has the form of its value representation; sequences and free text always have."""
        form = _VALUE_FORMS.get(dictionary_VR(Tag(keyword)))
        return form is None or form.fullmatch(self.text(keyword)) is not None

    def copy_identity(self, target: Dataset) -> None:
        """Copy patient, study and character set of the source to ``target``."""
        self._copy(target, "SpecificCharacterSet")
        for keyword in IDENTITY_TYPE_2:
            self._copy(target, keyword, empty_if_absent=True)
        for keyword in IDENTITY_TYPE_3:
            if self._is_well_formed(keyword):
                self._copy(target, keyword)
        if self.text("DeidentificationMethod").strip():
            # PatientIdentityRemoved of YES requires DeidentificationMethod, which some sources leave empty.
            self._copy(target, "PatientIdentityRemoved")
            self._copy(target, "DeidentificationMethod")
        target.StudyInstanceUID = self.image.study_instance_uid
        # Declared as Explicit VR Little Endian, in which results are written, so that pydicom writes the copied bytes
        # unchanged.
        target.set_original_encoding(False, True, encodings(target))

    def copy_series_context(self, target: Dataset) -> None:
        """Copy body part, laterality and orientation of the source to ``target``.

        For slices, Patient Orientation is derived from Image Orientation (Patient).
        """
        self._copy(target, "BodyPartExamined")
        # Laterality of the series must be absent if that of the image is present (PS3.3 section C.7.3.1).
        of_image = self.text("ImageLaterality") in ("L", "R", "U", "B")
        self._copy(target, "ImageLaterality" if of_image else "Laterality")
        self._copy(target, "PatientOrientation", empty_if_absent=True)
        if not self.text("PatientOrientation") and self.text("AnatomicalOrientationType") != "QUADRUPED":
            target.PatientOrientation = _patient_orientation(self.text("ImageOrientationPatient"))

    def referenced_requests(self) -> list[Dataset]:
        """Items of Referenced Request Sequence (0040,A370), one for each request of the source."""
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

    Returns:
        Directions of the rows and of the columns, as letters of the patient's axes with the nearest axis first (PS3.3
        section C.7.6.1.1.1). Empty if the text is not two directions.
    """
    try:
        numbers = [float(part) for part in image_orientation.split("\\")]
    except ValueError:
        return []
    if len(numbers) != 6 or not all(abs(number) <= 1.01 for number in numbers):
        return []
    directions = [_axis_letters(numbers[:3]), _axis_letters(numbers[3:])]
    return directions if all(directions) else []


def _axis_letters(direction: Sequence[float]) -> str:
    """Letters of a direction (x, y, z in LPS), without axes to which it is almost at a right angle."""
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
        # Strings have the same bytes in every transfer syntax, but implicit ones lack the VR.
        element = source.get_item(tag)
        if isinstance(element, RawDataElement):
            element = element._replace(VR=vr, is_implicit_VR=False, is_little_endian=True)
        target[tag] = element
