from __future__ import annotations

import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset, Sequence
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate, get_frame
from pydicom.uid import (
    UID,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLSLossless,
    RLELossless,
)

from inference.errors import ImageUnreadable
from inference.parsing.codestream import CodestreamError, frame_size
from inference.parsing.part10 import read_dataset
from inference.parsing.pixels import parsed_image
from inference.reading import files as reading

Write = Callable[..., Path]


def ramp(rows: int = 32, columns: int = 48, dtype: str = "u2") -> np.ndarray:
    return (np.arange(rows * columns).reshape(rows, columns) % 4096).astype(dtype)


def test_every_real_image_has_the_values_that_pydicom_gives(real_data: Path) -> None:
    files = sorted([*real_data.glob("cxr/*.dcm"), *real_data.glob("transfer_syntaxes/*.dcm")])
    assert files
    for file in files:
        np.testing.assert_array_equal(
            parsed_image(file).values, pydicom.dcmread(file).pixel_array, err_msg=file.name
        )


def test_bits_outside_of_bits_stored_are_cut_off(write_radiograph: Write) -> None:
    cells = ramp()
    image = parsed_image(write_radiograph(cells | 0xF000, BitsStored=12))
    np.testing.assert_array_equal(image.values, cells)
    assert (image.lowest, image.highest) == (0, 4095)


def test_stored_bits_may_lie_high_in_the_cell(write_radiograph: Write) -> None:
    cells = ramp()
    image = parsed_image(write_radiograph((cells << 4) | 0x3, BitsStored=12, HighBit=15))
    np.testing.assert_array_equal(image.values, cells)


def test_signed_values_are_extended_from_bits_stored(write_radiograph: Write) -> None:
    cells = np.array([[-2048, -1], [0, 2047]], dtype="i2")
    image = parsed_image(write_radiograph((cells & 0x0FFF).astype("i2"), BitsStored=12))
    np.testing.assert_array_equal(image.values, cells)
    assert (image.lowest, image.highest) == (-2048, 2047)


def test_bytes_after_the_frame_are_no_second_frame(write_radiograph: Write) -> None:
    cells = ramp()
    image = parsed_image(write_radiograph(cells, PixelData=cells.tobytes() * 3))
    np.testing.assert_array_equal(image.values, cells)


def test_deflated_dataset_is_read(write_radiograph: Write, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(ramp()))
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    path = tmp_path / "deflated.dcm"
    dataset.save_as(path)
    np.testing.assert_array_equal(parsed_image(path).values, ramp())


def test_run_length_coded_image_is_read(write_radiograph: Write, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(ramp()))
    dataset.compress(RLELossless)
    path = tmp_path / "rle.dcm"
    dataset.save_as(path)
    np.testing.assert_array_equal(parsed_image(path).values, ramp())


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"PixelData": b"\0" * 100}, "100 bytes where 3072"),
        ({"Rows": 65535, "Columns": 65535}, "not decoded"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "not a grey one"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "not a grey one"),
        ({"Rows": None}, "lacks Rows"),
        ({"BitsStored": 17, "HighBit": 16}, "bits stored up to bit"),
        ({"HighBit": 40}, "bits stored up to bit"),
    ],
)
def test_impossible_image_is_refused_with_the_reason(
    write_radiograph: Write, attributes: dict[str, object], reason: str
) -> None:
    with pytest.raises(ImageUnreadable, match=reason):
        parsed_image(write_radiograph(ramp(), **attributes))


def test_object_without_pixels_is_refused(write_radiograph: Write, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(ramp()))
    del dataset.PixelData
    path = tmp_path / "no-pixels.dcm"
    dataset.save_as(path)
    with pytest.raises(ImageUnreadable, match="no integer pixel data"):
        parsed_image(path)


def test_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "note.dcm"
    path.write_bytes(b"not a DICOM file" * 100)
    with pytest.raises(ImageUnreadable, match="no DICOM file"):
        parsed_image(path)


def test_missing_file_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        parsed_image(tmp_path / "absent.dcm")


def compressed(write: Write, frame: bytes, transfer_syntax_uid: str, tmp_path: Path) -> Path:
    dataset = pydicom.dcmread(write(ramp(dtype="u1")))
    dataset.file_meta.TransferSyntaxUID = UID(transfer_syntax_uid)
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].is_undefined_length = True
    path = tmp_path / "compressed.dcm"
    dataset.save_as(path)
    return path


def huge_jpeg_2000() -> bytes:
    size = struct.pack(">HHLLLLLLLLHBBB", 41, 0, 2**31, 2**31, 0, 0, 2**31, 2**31, 0, 0, 1, 7, 1, 1)
    return b"\xff\x4f\xff\x51" + size + b"\xff\xd9"


def test_codestream_larger_than_the_header_is_refused_before_decoding(
    write_radiograph: Write, tmp_path: Path
) -> None:
    path = compressed(write_radiograph, huge_jpeg_2000(), JPEG2000Lossless, tmp_path)
    with pytest.raises(ImageUnreadable, match="2147483648 x 2147483648 pixels, the header says 48 x 32"):
        parsed_image(path)


@pytest.mark.parametrize("transfer_syntax_uid", [JPEG2000Lossless, JPEGBaseline8Bit, RLELossless])
def test_damaged_codestream_is_refused(
    write_radiograph: Write, tmp_path: Path, transfer_syntax_uid: str
) -> None:
    path = compressed(write_radiograph, b"\x01\x02" * 50, transfer_syntax_uid, tmp_path)
    with pytest.raises(ImageUnreadable, match="damaged"):
        parsed_image(path)


@pytest.mark.skipif(not Path("/usr/bin/dcmcjpeg").exists(), reason="dcmtk is not installed")
@pytest.mark.parametrize("bits", [2, 6, 7, 8, 10, 12, 16])
@pytest.mark.parametrize("coder", ["dcmcjpeg +e1", "dcmcjpeg +el", "dcmcjpls +el"])
def test_lossless_coding_of_every_depth_is_what_was_stored(
    write_radiograph: Write, tmp_path: Path, bits: int, coder: str
) -> None:
    """GDCM ends its process where the header of 8-bit cells of JPEG has fewer bits stored."""
    cells = (np.mgrid[:64, :50][0] * 977 % 2**bits).astype(np.uint8 if bits <= 8 else np.uint16)
    path = write_radiograph(cells, BitsStored=bits, HighBit=bits - 1)
    program, option = coder.split()
    subprocess.run([f"/usr/bin/{program}", option, str(path), str(tmp_path / "coded.dcm")], check=True)
    np.testing.assert_array_equal(reading.read_image(tmp_path / "coded.dcm").values, cells)


def test_jpeg_ls_with_an_application_segment_is_read(write_radiograph: Write, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(ramp()))
    dataset.compress(JPEGLSLossless)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[:2] + b"\xff\xe5\x00\x06abcd" + frame[2:]])
    dataset.save_as(tmp_path / "coded.dcm")
    np.testing.assert_array_equal(parsed_image(tmp_path / "coded.dcm").values, ramp())


@pytest.mark.skipif(not Path("/usr/bin/dcmcjpeg").exists(), reason="dcmtk is not installed")
@pytest.mark.parametrize("coder", ["dcmcjpeg +eb", "dcmcjpeg +e1", "dcmcjpeg +el", "dcmcjpls +el"])
@pytest.mark.parametrize("part", [0.5, 0.75, 0.99])
def test_compressed_frame_that_is_cut_short_is_refused(
    write_radiograph: Write, tmp_path: Path, coder: str, part: float
) -> None:
    """A decoder that fills up what is missing gives values that nobody measured, one that searches takes minutes."""
    program, option = coder.split()
    cells = np.random.default_rng(1).normal(2000, 300, (64, 50)).astype(np.uint16)
    path, coded = write_radiograph(cells, BitsStored=12, HighBit=11), tmp_path / "coded.dcm"
    subprocess.run([f"/usr/bin/{program}", option, str(path), str(coded)], check=True)
    dataset = pydicom.dcmread(coded)
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1).rstrip(b"\0").removesuffix(b"\xff\xd9")
    dataset.PixelData = encapsulate([frame[: int(part * len(frame)) & ~1]])
    dataset.save_as(coded)
    start = time.process_time()
    with pytest.raises(ImageUnreadable, match=r"cannot be decoded|has no end"):
        parsed_image(coded)
    assert time.process_time() - start < 2


@pytest.mark.skipif(not Path("/usr/bin/dcmcjpeg").exists(), reason="dcmtk is not installed")
@pytest.mark.parametrize("bits", [8, 12])
@pytest.mark.peer
def test_extended_jpeg_is_what_dcmtk_makes_of_it(write_radiograph: Write, tmp_path: Path, bits: int) -> None:
    rows, columns = np.mgrid[:64, :50]
    cells = (2 ** (bits - 1) * (1 + 0.9 * np.sin(rows / 9) * np.cos(columns / 7))).astype(np.uint16)
    path = write_radiograph(cells.astype(np.uint8) if bits == 8 else cells, BitsStored=bits, HighBit=bits - 1)
    coded, decoded = tmp_path / "coded.dcm", tmp_path / "decoded.dcm"
    subprocess.run(["/usr/bin/dcmcjpeg", "+ee", str(path), str(coded)], check=True)
    subprocess.run(["/usr/bin/dcmdjpeg", str(coded), str(decoded)], check=True)
    assert pydicom.dcmread(coded).file_meta.TransferSyntaxUID == JPEGExtended12Bit
    expected = pydicom.dcmread(decoded).pixel_array.astype(int)
    assert np.abs(parsed_image(coded).values.astype(int) - expected).max() <= (0 if bits == 12 else 1)


@pytest.mark.skipif(not Path("/usr/bin/dcmdjpeg").exists(), reason="dcmtk is not installed")
@pytest.mark.parametrize("name", ["JPEG-lossy.dcm", "JPGExtended.dcm"])
@pytest.mark.peer
def test_twelve_bit_jpeg_of_nema_is_what_dcmtk_makes_of_it(tmp_path: Path, name: str) -> None:
    """The first has selection parameters that the standard forbids; DCMTK only warns of them."""
    file, decoded = get_testdata_file(name, download=False), tmp_path / "decoded.dcm"
    assert isinstance(file, str)
    subprocess.run(["/usr/bin/dcmdjpeg", file, str(decoded)], check=True)
    np.testing.assert_array_equal(parsed_image(Path(file)).values, pydicom.dcmread(decoded).pixel_array)


def test_twelve_bit_jpeg_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(str(get_testdata_file("JPGExtended.dcm", download=False)))
    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    dataset.PixelData = encapsulate([frame[: len(frame) // 2]])
    dataset.save_as(tmp_path / "short.dcm")
    with pytest.raises(ImageUnreadable, match="12-bit JPEG pixel data cannot be decoded"):
        parsed_image(tmp_path / "short.dcm")


def test_twelve_bit_jpeg_without_an_image_is_refused(write_radiograph: Write, tmp_path: Path) -> None:
    path = write_radiograph(ramp())
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = JPEGExtended12Bit
    header = struct.pack(">HBHHBBBB", 11, 12, 32, 48, 1, 1, 0x11, 0)
    dataset.PixelData = encapsulate([b"\xff\xd8\xff\xc1" + header + b"\xff\xd9"])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)
    with pytest.raises(ImageUnreadable, match="cannot be decoded"):
        parsed_image(path)


def test_frame_size_reads_the_real_codestreams(real_data: Path) -> None:
    for file in [*real_data.glob("cxr/*jpeg*.dcm"), *real_data.glob("transfer_syntaxes/*.dcm")]:
        dataset = pydicom.dcmread(file)
        syntax = dataset.file_meta.TransferSyntaxUID
        size = frame_size(syntax, get_frame(dataset.PixelData, 0, number_of_frames=1))
        if syntax == RLELossless:
            assert size is None
        else:
            assert size is not None
            assert (size.rows, size.columns, size.components) == (dataset.Rows, dataset.Columns, 1)


@pytest.mark.parametrize("length", range(0, 60, 7))
def test_frame_cut_short_is_a_codestream_error(length: int) -> None:
    with pytest.raises(CodestreamError):
        frame_size(JPEG2000Lossless, huge_jpeg_2000()[: min(length, 40)])


def nested(depth: int) -> Dataset:
    dataset = Dataset()
    dataset.SeriesDescription = "innermost"
    for _ in range(depth):
        outer = Dataset()
        outer.ContentSequence = Sequence([dataset])
        outer["ContentSequence"].is_undefined_length = True
        dataset.is_undefined_length_sequence_item = True
        dataset = outer
    return dataset


def test_deep_nesting_is_refused_before_parsing(write_radiograph: Write) -> None:
    path = write_radiograph(ramp())
    data = path.read_bytes()
    position = data.index(struct.pack("<HH", 0x7FE0, 0x0010) + b"OW")
    begin = struct.pack("<HH2sHL", 0x0040, 0xA730, b"SQ", 0, 0xFFFFFFFF) + struct.pack(
        "<HHL", 0xFFFE, 0xE000, 0xFFFFFFFF
    )
    path.write_bytes(data[:position] + begin * 5000 + data[position:])
    with pytest.raises(ImageUnreadable, match="nested more than 64 deep"):
        read_dataset(path)


def test_ordinary_nesting_is_read(write_radiograph: Write, tmp_path: Path) -> None:
    dataset = pydicom.dcmread(write_radiograph(ramp()))
    dataset.update(nested(20))
    path = tmp_path / "nested.dcm"
    dataset.save_as(path)
    np.testing.assert_array_equal(parsed_image(path).values, ramp())


def test_deflate_bomb_is_refused(write_radiograph: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_radiograph(
        ramp(),
    )
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.DeflatedExplicitVRLittleEndian
    dataset.PixelData = bytes(5_000_000)
    dataset.save_as(path)
    assert path.stat().st_size < 100_000, "the file itself is small"
    monkeypatch.setattr("inference.parsing.part10.MAXIMUM_BYTES", 1_000_000)
    with pytest.raises(ImageUnreadable, match="deflated dataset is larger"):
        read_dataset(path)
