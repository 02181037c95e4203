"""The size that a compressed frame declares, read before a decoder sees the frame.

A decoder allocates what the codestream asks for, and a file of a few bytes can ask for terabytes. Also, a frame
of another size than the dataset's is not the image that the dataset describes.

References: ISO/IEC 10918-1 B.2.2 (JPEG frame header), ISO/IEC 14495-1 C.2.2 (JPEG-LS), ISO/IEC 15444-1 A.5.1
(JPEG 2000 SIZ), DICOM PS3.5 section G.5 (RLE header).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from pydicom.uid import (
    HTJ2K,
    UID,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

HTJ2K_TRANSFER_SYNTAXES = (HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL)

_JPEG_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC})
_JPEG_BARE_MARKERS = frozenset({0x01, *range(0xD0, 0xD8)})
_JP2_SIGNATURE = b"\x00\x00\x00\x0cjP  "
_RLE_HEADER = struct.Struct("<16L")


class CodestreamError(ValueError):
    """The header of the compressed frame cannot be read."""


@dataclass(frozen=True, kw_only=True)
class FrameSize:
    """Size of a compressed frame; ``precision`` is in bits."""

    rows: int
    columns: int
    components: int
    precision: int


def frame_size(transfer_syntax_uid: UID, frame: bytes) -> FrameSize | None:
    """The size that a compressed frame declares, None if its coding declares none (RLE).

    Raises:
        CodestreamError: the frame's header is damaged or of another coding, or a JPEG-LS frame is cut short.
    """
    try:
        if transfer_syntax_uid in JPEGTransferSyntaxes:
            return _jpeg_size(frame)
        if transfer_syntax_uid in JPEGLSTransferSyntaxes:
            size = _jpeg_size(frame)
            _check_jpeg_ls_end(frame)
            return size
        if transfer_syntax_uid in JPEG2000TransferSyntaxes or transfer_syntax_uid in HTJ2K_TRANSFER_SYNTAXES:
            return _jpeg_2000_size(frame)
        if transfer_syntax_uid == RLELossless:
            _check_rle(frame)
    except (struct.error, IndexError):
        raise CodestreamError("the header of the compressed frame is cut short") from None
    return None


def _jpeg_size(frame: bytes) -> FrameSize:
    if frame[:2] != b"\xff\xd8":
        raise CodestreamError("the compressed frame is no JPEG stream")
    offset = 2
    while True:
        if frame[offset] != 0xFF:
            raise CodestreamError("the JPEG stream has no frame header")
        marker = frame[offset + 1]
        if marker == 0xFF:  # fill byte
            offset += 1
        elif marker in _JPEG_BARE_MARKERS:
            offset += 2
        elif marker in _JPEG_FRAME_MARKERS:
            precision, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 4)
            return FrameSize(rows=rows, columns=columns, components=components, precision=precision)
        else:
            offset += 2 + struct.unpack_from(">H", frame, offset + 2)[0]


def _check_jpeg_ls_end(frame: bytes) -> None:
    """Refuse a frame without its end of image marker, which CharLS takes many seconds to notice."""
    if frame.rfind(b"\xff\xd9") < frame.rfind(b"\xff\xda"):
        raise CodestreamError("the JPEG-LS stream has no end")


def _jpeg_2000_size(frame: bytes) -> FrameSize:
    offset = 0
    if frame.startswith(_JP2_SIGNATURE):
        offset = frame.find(b"jp2c") + 4
    if frame[offset : offset + 4] != b"\xff\x4f\xff\x51":
        raise CodestreamError("the compressed frame is no JPEG 2000 codestream")
    _, width, height, left, top, tile_width, tile_height = struct.unpack_from(">H6L", frame, offset + 6)
    if not tile_width or not tile_height or width <= left or height <= top:
        raise CodestreamError("the JPEG 2000 codestream declares an impossible size")
    (components,) = struct.unpack_from(">H", frame, offset + 40)
    precision = (frame[offset + 42] & 0x7F) + 1
    return FrameSize(rows=height - top, columns=width - left, components=components, precision=precision)


def _check_rle(frame: bytes) -> None:
    count, *offsets = _RLE_HEADER.unpack_from(frame)
    used = offsets[:count]
    if not 1 <= count <= 15 or used[0] != _RLE_HEADER.size or used != sorted(used) or used[-1] >= len(frame):
        raise CodestreamError("the RLE header is damaged")
