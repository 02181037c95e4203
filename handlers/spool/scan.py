"""Scanning a dataset's bytes for the attributes to index."""

from __future__ import annotations

from collections.abc import Iterable

from db.records import AttributeValue
from handlers.encoding.attributes import read_attributes

USUAL_KEYWORDS = frozenset(
    """
    SpecificCharacterSet ImageType SOPClassUID SOPInstanceUID StudyDate SeriesDate AcquisitionDate ContentDate
    StudyTime AccessionNumber Modality PresentationIntentType Manufacturer InstitutionName
    ReferringPhysicianName StationName StudyDescription SeriesDescription ManufacturerModelName PatientName
    PatientID IssuerOfPatientID PatientBirthDate PatientSex PatientAge BodyPartExamined SliceThickness
    ProtocolName ViewPosition StudyInstanceUID SeriesInstanceUID StudyID SeriesNumber AcquisitionNumber
    InstanceNumber PatientOrientation ImageOrientationPatient Laterality FrameOfReferenceUID
    NumberOfStudyRelatedInstances SamplesPerPixel PhotometricInterpretation NumberOfFrames Rows Columns
    BitsAllocated BitsStored LossyImageCompression EchoNumbers EchoTime RepetitionTime ContrastBolusAgent
    ScanningSequence ConvolutionKernel
    """.split()
)


def scan(
    data: bytes | memoryview, transfer_syntax_uid: str, extra: Iterable[str] = ()
) -> dict[str, AttributeValue]:
    """The values of ``USUAL_KEYWORDS`` and ``extra`` keywords in an encoded dataset, read up to its pixel data.

    Raises:
        ScanError: the bytes are not a dataset in that transfer syntax, or it is nested too deeply.
    """
    return read_attributes(data, transfer_syntax_uid, USUAL_KEYWORDS.union(extra))
