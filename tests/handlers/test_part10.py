"""Files as a receiver would get them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset, dcmread
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from handlers.errors import ScanError
from handlers.spool.part10 import scan_file


def write(path: Path, syntax: str) -> None:
    dataset = Dataset()
    dataset.SOPClassUID, dataset.SOPInstanceUID = CTImageStorage, "1.2.3"
    dataset.Modality, dataset.Rows = "CT", 512
    dataset.DetectorID = "D7"
    dataset.ImageComments = "x" * 5000
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.file_meta.PrivateInformationCreatorUID = UID("1.2")
    dataset.file_meta.PrivateInformation = b"private information"
    dataset.save_as(path, enforce_file_format=True)


SYNTAXES = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)


@pytest.mark.parametrize("syntax", SYNTAXES)
def test_attributes_are_those_that_a_receiver_indexes(tmp_path: Path, syntax: str) -> None:
    write(tmp_path / "a.dcm", syntax)
    usual = {"SOPClassUID": CTImageStorage, "SOPInstanceUID": "1.2.3", "Modality": "CT", "Rows": "512"}
    assert scan_file(tmp_path / "a.dcm") == usual
    assert scan_file(tmp_path / "a.dcm", ["DetectorID", "ImageComments"]) == usual | {"DetectorID": "D7"}


def test_file_meta_information_without_its_length_is_read(tmp_path: Path) -> None:
    write(tmp_path / "a.dcm", ExplicitVRLittleEndian)
    data = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "b.dcm").write_bytes(data[:132] + data[144:])
    assert dcmread(tmp_path / "b.dcm").Modality == "CT"
    assert scan_file(tmp_path / "b.dcm") == scan_file(tmp_path / "a.dcm")


@pytest.mark.parametrize("data", [b"", b"DICM", bytes(132), bytes(1000), b"\x89PNG" * 100])
def test_other_files_are_none(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a").write_bytes(data)
    assert scan_file(tmp_path / "a") is None


@given(cut=st.integers(133, 5600), at=st.integers(132, 500), byte=st.integers(0, 255))
def test_damaged_file_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, cut: int, at: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "a.dcm"
    write(path, ExplicitVRLittleEndian)
    data = bytearray(path.read_bytes())
    data[at] = byte
    path.write_bytes(data[:cut])
    try:
        scan_file(path)
    except ScanError as error:
        assert str(error)
