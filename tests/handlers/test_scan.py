"""The bounded reader: what it finds, and that bytes of any kind cannot make it fail in another way."""

from __future__ import annotations

from io import BytesIO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from handlers.errors import ScanError
from handlers.spool.scan import scan

SYNTAXES = (ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian)


def encoded(dataset: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_little_endian = syntax != ExplicitVRBigEndian
    buffer.is_implicit_VR = syntax == ImplicitVRLittleEndian
    write_dataset(buffer, dataset)
    return buffer.getvalue()


def example() -> Dataset:
    dataset = Dataset()
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.Modality = "CT"
    item = Dataset()
    item.Modality = "MR"
    dataset.ReferencedStudySequence = Sequence([item])
    dataset.PatientName = "A^B"
    dataset.PatientID = ""
    dataset.SliceThickness = "1.25"
    dataset.StudyInstanceUID = "1.2.3"
    dataset.InstanceNumber = 7
    dataset.Rows = 512
    dataset.EchoNumbers = [1, 2]
    dataset.add_new(0x7FE00010, "OW", b"\0\1" * 100)
    return dataset


@pytest.mark.parametrize("syntax", SYNTAXES)
@pytest.mark.parametrize("undefined", [False, True])
def test_attributes_are_read_and_sequences_passed_over(syntax: str, undefined: bool) -> None:
    dataset = example()
    if undefined:
        dataset["ReferencedStudySequence"].is_undefined_length = True
        dataset.ReferencedStudySequence[0].is_undefined_length_sequence_item = True
    found = scan(encoded(dataset, syntax), syntax)
    assert found == {
        "ImageType": ["ORIGINAL", "PRIMARY"],
        "Modality": "CT",
        "PatientName": "A^B",
        "PatientID": None,
        "SliceThickness": "1.25",
        "StudyInstanceUID": "1.2.3",
        "InstanceNumber": "7",
        "Rows": "512",
        "EchoNumbers": ["1", "2"],
    }


def test_extra_keywords_are_read() -> None:
    dataset = example()
    dataset.KVP = "120"
    assert scan(encoded(dataset, ExplicitVRLittleEndian), ExplicitVRLittleEndian, ["KVP"])["KVP"] == "120"


@pytest.mark.parametrize("syntax", SYNTAXES)
@settings(max_examples=300)
@given(data=st.data())
def test_damaged_bytes_raise_nothing_but_scan_errors(syntax: str, data: st.DataObject) -> None:
    whole = bytearray(encoded(example(), syntax))
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(whole) - 1))
        whole[position] = data.draw(st.integers(0, 255))
    cut = whole[: data.draw(st.integers(0, len(whole)))]
    try:
        scan(bytes(cut), syntax)
    except ScanError:
        return


@given(st.binary(max_size=200), st.sampled_from(SYNTAXES))
def test_any_bytes_raise_nothing_but_scan_errors(data: bytes, syntax: str) -> None:
    try:
        scan(BytesIO(data).getvalue(), syntax)
    except ScanError:
        return
