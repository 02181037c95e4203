"""Stored pixel values of a file, which is checked before anything is decoded.

The node runs this only in the reader process (``inference.reading.files``). What a header declares is compared
with what the file really holds (length of native pixels, size in the codestream) before memory is allocated.

References: DICOM PS3.3 section C.7.6.3 (Image Pixel Module), PS3.5 section 8 (encoding of pixel data).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from pydicom import DataElement, FileDataset
from pydicom.encaps import get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    JPEGExtended12Bit,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from inference.errors import ImageUnreadable
from inference.findings import SourceImage
from inference.parsing import twelve_bit
from inference.parsing.codestream import CodestreamError, frame_size
from inference.parsing.part10 import header_of, read_dataset
from inference.reading.display import Display
from inference.reading.stored import MAXIMUM_PIXELS, StoredImage

SUPPORTED_BITS_ALLOCATED = (8, 16, 32)

_NO_OVERLAY = DataElement(0x60000102, "US", 0)


def parsed_image(source: Path | BinaryIO, keywords: Iterable[str] = ()) -> StoredImage:
    """Read a DICOM Part 10 file with a single-frame grey image.

    Args:
        source: the file, by its path or opened.
        keywords: attributes to take into the image's header.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: the file is no such image, or its pixel data cannot be decoded safely.
    """
    dataset = read_dataset(source)
    try:
        header = header_of(dataset, {*keywords, "StudyInstanceUID", "SeriesInstanceUID"})
        _check_description(dataset)
        values = _decode(dataset)
        bits = int(dataset.BitsStored)
        lowest = -(1 << (bits - 1)) if dataset.PixelRepresentation == 1 else 0
        highest = lowest + (1 << bits) - 1
        display = Display.of(dataset, lowest, highest)
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # header values are converted when they are first used
        raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error
    origin = SourceImage(
        path=source if isinstance(source, Path) else Path(),
        study_instance_uid=header.first("StudyInstanceUID"),
        series_instance_uid=header.first("SeriesInstanceUID"),
        sop_class_uid=header.sop_class_uid,
        sop_instance_uid=header.sop_instance_uid,
        rows=values.shape[0],
        columns=values.shape[1],
    )
    return StoredImage(
        source=origin, header=header, display=display, values=values, lowest=lowest, highest=highest
    )


class FrameDecoder:
    """The frames of a grey image, decoded one at a time.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: the file is no such image.
    """

    def __init__(self, source: Path | BinaryIO) -> None:
        self.dataset = read_dataset(source)
        try:
            _check_description(self.dataset, multiple=True)
            self.count = int(self.dataset.get("NumberOfFrames") or 1)
        except (ImageUnreadable, MemoryError):
            raise
        except Exception as error:  # header values are converted when they are first used
            raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error

    def values(self, index: int) -> NDArray[np.integer]:
        """Stored values of one frame, counted from 0; shape (rows, columns).

        Raises:
            ImageUnreadable: the frame's pixel data cannot be decoded safely.
        """
        try:
            return _decode(self.dataset, index)
        except (ImageUnreadable, MemoryError):
            raise
        except Exception as error:
            raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error


def _check_description(dataset: FileDataset, *, multiple: bool = False) -> None:
    """Refuse an invalid Image Pixel Module, images in colour, and, unless ``multiple``, several frames."""
    if "PixelData" not in dataset:
        raise ImageUnreadable("the object has no integer pixel data")
    for keyword in ("Rows", "Columns", "BitsAllocated", "BitsStored", "PhotometricInterpretation"):
        if dataset.get(keyword) in (None, ""):
            raise ImageUnreadable(f"the image lacks {keyword}")
    if dataset.get("SamplesPerPixel", 1) != 1 or dataset.PhotometricInterpretation not in (
        "MONOCHROME1",
        "MONOCHROME2",
    ):
        raise ImageUnreadable(f"the image is not a grey one ({dataset.PhotometricInterpretation})")
    if not multiple and int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ImageUnreadable(f"the image has {dataset.NumberOfFrames} frames, not one")
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if min(rows, columns) < 1 or rows * columns > MAXIMUM_PIXELS:
        raise ImageUnreadable(f"an image of {columns} x {rows} pixels is not decoded")
    allocated, stored = int(dataset.BitsAllocated), int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    if (
        allocated not in SUPPORTED_BITS_ALLOCATED
        or not 1 <= stored <= allocated
        or not stored <= high + 1 <= allocated
    ):
        raise ImageUnreadable(
            f"pixels of {stored} bits stored up to bit {high} of {allocated} cannot be read"
        )
    dataset.PixelRepresentation = int(dataset.get("PixelRepresentation", 0) or 0)


def _decode(dataset: FileDataset, index: int = 0) -> NDArray[np.integer]:
    """Stored values of one frame, without the bits outside of Bits Stored."""
    transfer_syntax_uid = dataset.file_meta.TransferSyntaxUID
    if transfer_syntax_uid.is_encapsulated:
        cells = _decode_frame(dataset, transfer_syntax_uid, index)
    else:
        cells = _decode_native(dataset, transfer_syntax_uid, index)
    return _cut_to_stored_bits(cells, dataset)


def _decode_native(dataset: FileDataset, transfer_syntax_uid: UID, index: int) -> NDArray[np.integer]:
    """Cells of a native frame; bytes after the last frame are padding (PS3.5 section 8.1.1)."""
    allocated = int(dataset.BitsAllocated)
    count = int(dataset.Rows) * int(dataset.Columns)
    size = count * allocated // 8
    needed = size * (index + 1)
    if len(dataset.PixelData) < needed:
        raise ImageUnreadable(f"the pixel data has {len(dataset.PixelData)} bytes where {needed} are needed")
    order = "<" if transfer_syntax_uid.is_little_endian else ">"
    cells = np.frombuffer(
        dataset.PixelData, dtype=f"{order}u{allocated // 8}", count=count, offset=size * index
    )
    native = cells.astype(cells.dtype.newbyteorder("="), copy=False)
    return native.reshape(int(dataset.Rows), int(dataset.Columns))


def _decode_frame(dataset: FileDataset, transfer_syntax_uid: UID, index: int) -> NDArray[np.integer]:
    frames = int(dataset.get("NumberOfFrames") or 1)
    try:
        decoder = get_decoder(transfer_syntax_uid)
    except NotImplementedError:
        raise ImageUnreadable(f"{transfer_syntax_uid.name} cannot be decoded") from None
    try:
        frame = get_frame(dataset.PixelData, index, number_of_frames=frames)
        size = frame_size(transfer_syntax_uid, frame)
    except (CodestreamError, ValueError) as error:
        raise ImageUnreadable(f"the pixel data is damaged: {error}") from error
    if size is not None:
        if (size.rows, size.columns) != (dataset.Rows, dataset.Columns):
            raise ImageUnreadable(
                f"the compressed frame has {size.columns} x {size.rows} pixels, "
                f"the header says {dataset.Columns} x {dataset.Rows}"
            )
        if size.components != 1 or size.precision > dataset.BitsAllocated:
            raise ImageUnreadable(
                f"the compressed frame has {size.components} components of {size.precision} bits, "
                f"the header says one of {dataset.BitsStored}"
            )
    try:
        if (
            transfer_syntax_uid == JPEGExtended12Bit
            and size is not None
            and size.precision == twelve_bit.BITS
        ):
            return twelve_bit.decode_frame(frame, size.rows, size.columns)
        cells, _ = decoder.as_array(dataset, index=index, raw=True, **_decoder_options(dataset))
    except BaseException as error:
        # Decoders are plug-ins that raise almost anything; a panic in Rust is no Exception.
        if isinstance(error, (KeyboardInterrupt, SystemExit, MemoryError, ImageUnreadable)):
            raise
        raise ImageUnreadable(
            f"{transfer_syntax_uid.name} pixel data cannot be decoded ({type(error).__name__})"
        ) from error
    return cells


def _decoder_options(dataset: FileDataset) -> dict[str, Any]:
    """Options for pydicom's decoder: keep all bits of the cells, and use one fixed decoder for JPEG and JPEG-LS.

    By default, pydicom tries the next decoder if one refuses a damaged frame, and some then invent values.
    """
    transfer_syntax_uid = dataset.file_meta.TransferSyntaxUID
    options: dict[str, Any] = {"correct_unused_bits": False}
    if transfer_syntax_uid in JPEGTransferSyntaxes:
        options["decoding_plugin"] = "gdcm"
        if dataset.BitsAllocated == 8:
            options["bits_stored"] = 8  # with fewer, GDCM ends the process; _cut_to_stored_bits checks them
    elif transfer_syntax_uid in JPEGLSTransferSyntaxes:
        options["decoding_plugin"] = "pyjpegls"  # GDCM refuses 6 and 7 bits, and most application segments
    return options


def _cut_to_stored_bits(cells: NDArray[np.integer], dataset: FileDataset) -> NDArray[np.integer]:
    """Cut the stored bits out of the cells.

    Native and run-length coding keep whole cells, whose unused bits may hold overlays or padding. Other codings hold
    sample values. There, bits above Bits Stored are an error, unless the image has overlays in them.

    Raises:
        ImageUnreadable: a value needs more bits than Bits Stored.
    """
    stored = int(dataset.BitsStored)
    size = cells.dtype.itemsize
    signed = dataset.PixelRepresentation == 1
    typed = cells.astype(np.dtype(f"{'i' if signed else 'u'}{size}"), copy=False)
    shift_down = 8 * size - stored
    if not shift_down:
        return typed
    transfer_syntax_uid = dataset.file_meta.TransferSyntaxUID
    whole_cells = not transfer_syntax_uid.is_encapsulated or transfer_syntax_uid == RLELossless
    high_bit = int(dataset.get("HighBit", stored - 1)) if whole_cells else stored - 1
    if not whole_cells and not _has_embedded_overlay(dataset):
        lowest = -(1 << (stored - 1)) if signed else 0
        if typed.min() < lowest or typed.max() >= 1 << stored:
            raise ImageUnreadable(f"pixel values do not fit the {stored} bits that Bits Stored declares")
    return np.right_shift(np.left_shift(typed, 8 * size - 1 - high_bit), shift_down)


def _has_embedded_overlay(dataset: FileDataset) -> bool:
    """Whether an overlay lies in unused bits of the pixel cells (PS3.3 section C.9.2, retired)."""
    return any(
        int(dataset.get((group, 0x0102), _NO_OVERLAY).value or 0) for group in range(0x6000, 0x6020, 2)
    )
