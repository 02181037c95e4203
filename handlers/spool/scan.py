"""The attributes of a received instance that go into the index, read from its bytes."""

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
    """The usual attributes of an encoded dataset, and those whose keywords are ``extra``, up to its pixel data.

    Raises:
        ScanError: it is not a dataset of that transfer syntax, or nested too deeply.
    """
    return read_attributes(data, transfer_syntax_uid, USUAL_KEYWORDS.union(extra))
