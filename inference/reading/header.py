"""A fast reader of the few header elements that a native slice's geometry needs.

A series has hundreds of slices, and a full parser needs more time for a header than the disk for the pixels.
This reader steps over the element headers and builds no objects. It leaves anything unusual to the full parser.

References: DICOM PS3.5 section 7.1 (data elements), PS3.10 section 7 (file format).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

KEYWORDS = (
    "ImageType",
    "SOPClassUID",
    "SOPInstanceUID",
    "PatientID",
    "Modality",
    "AcquisitionTime",
    "ContentTime",
    "TriggerTime",
    "EchoTime",
    "EchoNumbers",
    "ConvolutionKernel",
    "DiffusionBValue",
    "SliceThickness",
    "SpacingBetweenSlices",
    "StudyInstanceUID",
    "SeriesInstanceUID",
    "AcquisitionNumber",
    "InstanceNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "FrameOfReferenceUID",
    "TemporalPositionIdentifier",
    "SamplesPerPixel",
    "PhotometricInterpretation",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "PixelSpacing",
    "BitsAllocated",
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "RescaleIntercept",
    "RescaleSlope",
)
"""Attributes that say where a slice lies, what it shows of whom, and how it is stored."""

_TAGS = {int(tag_for_keyword(keyword) or 0): keyword for keyword in KEYWORDS}
_BINARY_KEYWORDS = frozenset(
    {
        "SamplesPerPixel",
        "Rows",
        "Columns",
        "BitsAllocated",
        "BitsStored",
        "HighBit",
        "PixelRepresentation",
        "DiffusionBValue",
    }
)
_LONG_LENGTH_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_PIXEL_DATA = 0x7FE00010
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_MODALITY_LUT = 0x00283000
_UNDEFINED = 0xFFFFFFFF
_MAXIMUM_DEPTH = 64
HEADER_BYTES = (32 * 1024, 1024 * 1024)
"""Bytes of a file that are read to find its header; the second try is for headers with large private elements."""

assert all(keyword_for_tag(tag) for tag in _TAGS)


@dataclass(frozen=True, kw_only=True)
class QuickHeader:
    """Header values as text by keyword, and where the native pixels lie in the file."""

    values: dict[str, str]
    pixel_offset: int
    pixel_bytes: int


def quick_header(path: Path) -> QuickHeader | None:
    """The header of a native little-endian file, None if the file needs the full parser.

    Raises:
        OSError: the file cannot be opened or read.
    """
    with path.open("rb", buffering=0) as file:
        data = b""
        for size in HEADER_BYTES:
            data += file.read(size - len(data))
            try:
                return _walk_elements(data)
            except struct.error:  # the header is longer than what was read
                continue
            except (IndexError, UnicodeDecodeError):
                return None
    return None


def _walk_elements(data: bytes) -> QuickHeader | None:
    if data[128:132] != b"DICM":
        return None
    transfer_syntax, position = _file_meta(data)
    if transfer_syntax not in (ExplicitVRLittleEndian, ImplicitVRLittleEndian):
        return None
    implicit = transfer_syntax == ImplicitVRLittleEndian
    values: dict[str, str] = {}
    depth = 0
    explicit_header, implicit_header, length_only = (
        struct.Struct("<HH2sH").unpack_from,
        struct.Struct("<HHL").unpack_from,
        struct.Struct("<L").unpack_from,
    )
    while True:
        vr = b""
        if implicit:
            group, element, length = implicit_header(data, position)
            start = position + 8
        else:
            group, element, vr, length = explicit_header(data, position)
            start = position + 8
            if group == 0xFFFE:
                (length,) = length_only(data, position + 4)
            elif vr in _LONG_LENGTH_VRS:
                (length,) = length_only(data, position + 8)
                start = position + 12
        tag = group << 16 | element
        if group == 0xFFFE:
            if tag == _ITEM and length != _UNDEFINED:
                position = start + length
                continue
            depth += 1 if tag == _ITEM else -1
            if not 0 <= depth <= _MAXIMUM_DEPTH:
                return None
            position = start
            continue
        if length == _UNDEFINED:
            if vr == b"UN" or (tag == _PIXEL_DATA and depth == 0):
                return None
            depth += 1
            if depth > _MAXIMUM_DEPTH:
                return None
            position = start
            continue
        if depth == 0:
            if tag == _PIXEL_DATA:
                return QuickHeader(values=values, pixel_offset=start, pixel_bytes=length)
            if tag == _MODALITY_LUT:
                return None
            keyword = _TAGS.get(tag)
            if keyword is not None:
                value = data[start : start + length]
                if len(value) != length:
                    raise struct.error
                values[keyword] = header_text(keyword, value)
        position = start + length


def _file_meta(data: bytes) -> tuple[str, int]:
    """Transfer Syntax UID, and the offset of the dataset in bytes."""
    transfer_syntax, position = "", 132
    while True:
        group, element, vr, length = struct.unpack_from("<HH2sH", data, position)
        if group != 0x0002:
            return transfer_syntax, position
        start = position + 8
        if vr in _LONG_LENGTH_VRS:
            (length,) = struct.unpack_from("<L", data, position + 8)
            start = position + 12
        if element == 0x0010:
            transfer_syntax = data[start : start + length].rstrip(b"\0 ").decode("ascii")
        position = start + length


def header_text(keyword: str, value: bytes) -> str:
    """An encoded value as text; every character set is read as Latin-1."""
    if keyword in _BINARY_KEYWORDS:
        kind = {2: "<H", 4: "<L", 8: "<d"}.get(len(value))
        return "" if kind is None else f"{struct.unpack(kind, value)[0]:g}"
    return value.rstrip(b"\0 ").decode("latin-1").strip()
