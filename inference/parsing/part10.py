"""The full parser of untrusted DICOM files: size, inflation and nesting are checked before parsing.

The node runs it only in the reader process (``inference.reading.files``). pydicom recurses into sequences of
undefined length, so a file of a few kilobytes can abort the interpreter. It also inflates deflated datasets
without a limit. Both are checked here first.

References: DICOM PS3.10 section 7 (file format), PS3.5 section 7 (data elements, sequences) and section A.5
(deflate).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from pydicom import Dataset, FileDataset, dcmread
from pydicom.filereader import read_dataset as read_elements
from pydicom.multival import MultiValue
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from inference.errors import ImageUnreadable
from inference.headers import AttributeValue, ImageHeader
from inference.reading.forms import UID_FORM

MAXIMUM_BYTES = 1024 * 1024 * 1024
MAXIMUM_DEPTH = 64  # levels of nested sequences; the standard's deepest templates stay below 20

_PREAMBLE_BYTES = 132
_UNDEFINED = 0xFFFFFFFF
_PIXEL_DATA = (0x7FE0, 0x0010)
_LONG_LENGTH_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_READ_SEQUENCES = frozenset({(0x0028, 0x3000), (0x0028, 0x3010)})  # Modality LUT and VOI LUT Sequence


def read_dataset(source: Path | BinaryIO) -> FileDataset:
    """Read a whole Part 10 file, given by its path or opened.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: the file is no DICOM file, is damaged, too large or too deeply nested.
    """
    data = _read_bytes(source)
    try:
        return _parse(data)
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # on damaged files, the parser raises almost anything
        raise ImageUnreadable(f"the file is damaged ({type(error).__name__})") from error


def header_of(dataset: Dataset, keywords: Iterable[str]) -> ImageHeader:
    """The attributes of a dataset that engines select images by; absent ones are left out.

    Raises:
        ImageUnreadable: SOP Instance UID is missing or has no valid form.
    """
    if not dataset.get("SOPInstanceUID"):
        raise ImageUnreadable("the object has no SOP Instance UID")
    if UID_FORM.fullmatch(str(dataset.SOPInstanceUID)) is None:
        raise ImageUnreadable("the SOP Instance UID is no UID")
    attributes: dict[str, AttributeValue] = {}
    for keyword in keywords:
        if keyword not in dataset:
            continue
        value = dataset[keyword].value
        attributes[keyword] = (
            [str(item) for item in value]
            if isinstance(value, MultiValue)
            else ""
            if value is None
            else str(value)
        )
    return ImageHeader(
        sop_class_uid=str(dataset.get("SOPClassUID", "")),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        attributes=attributes,
    )


def _read_bytes(source: Path | BinaryIO) -> bytes:
    if isinstance(source, Path):
        with source.open("rb") as file:
            return _read_bytes(file)
    data = source.read(MAXIMUM_BYTES + 1)
    if len(data) > MAXIMUM_BYTES:
        raise ImageUnreadable(f"the file is larger than {MAXIMUM_BYTES} bytes")
    if data[_PREAMBLE_BYTES - 4 : _PREAMBLE_BYTES] != b"DICM":
        raise ImageUnreadable("the file is no DICOM file (PS3.10)")
    return data


def _parse(data: bytes) -> FileDataset:
    start = _end_of_file_meta(data)
    file_meta = dcmread(BytesIO(data[:start])).file_meta
    transfer_syntax_uid = UID(file_meta.TransferSyntaxUID)
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    little_endian = transfer_syntax_uid != ExplicitVRBigEndian
    if transfer_syntax_uid != DeflatedExplicitVRLittleEndian:
        _check_nesting(data, start, _Encoding(implicit=implicit, little_endian=little_endian))
        return dcmread(BytesIO(data))
    plain = _inflate(data[start:])
    _check_nesting(plain, 0, _Encoding(implicit=False, little_endian=True))
    elements = read_elements(BytesIO(plain), False, True)
    return FileDataset(
        "",
        elements,
        preamble=data[:128],
        file_meta=file_meta,
        is_implicit_VR=False,
        is_little_endian=True,
    )


def _inflate(data: bytes) -> bytes:
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    plain = inflater.decompress(data, MAXIMUM_BYTES)
    if inflater.unconsumed_tail:
        raise ImageUnreadable(f"the deflated dataset is larger than {MAXIMUM_BYTES} bytes")
    return plain


def _end_of_file_meta(data: bytes) -> int:
    """Offset of the first element after group 0002, which is always explicit little endian."""
    position = _PREAMBLE_BYTES
    encoding = _Encoding(implicit=False, little_endian=True)
    while position + 8 <= len(data):
        element = encoding.element(data, position)
        if element.tag[0] != 0x0002:
            break
        position = element.value_offset + element.length
    return position


@dataclass(frozen=True, kw_only=True)
class _Element:
    tag: tuple[int, int]
    vr: bytes
    length: int
    value_offset: int


@dataclass(frozen=True, kw_only=True)
class _Encoding:
    implicit: bool
    little_endian: bool

    def element(self, data: bytes, position: int) -> _Element:
        """The element header at a position (PS3.5 section 7.1)."""
        order = "<" if self.little_endian else ">"
        tag = struct.unpack_from(f"{order}HH", data, position)
        vr = b"" if self.implicit or tag[0] == 0xFFFE else data[position + 4 : position + 6]
        if not vr:
            (length,) = struct.unpack_from(f"{order}L", data, position + 4)
            return _Element(tag=tag, vr=vr, length=length, value_offset=position + 8)
        if vr in _LONG_LENGTH_VRS:
            (length,) = struct.unpack_from(f"{order}L", data, position + 8)
            return _Element(tag=tag, vr=vr, length=length, value_offset=position + 12)
        (length,) = struct.unpack_from(f"{order}H", data, position + 6)
        return _Element(tag=tag, vr=vr, length=length, value_offset=position + 8)


@dataclass(frozen=True, kw_only=True)
class _OpenLevel:
    """A sequence or item that encloses the current position; ``end`` is None if its length is undefined."""

    end: int | None
    encoding: _Encoding
    fragments: bool = False


def _check_nesting(data: bytes, start: int, encoding: _Encoding) -> None:
    """Refuse deep nesting, by stepping over the element headers before the pixel data without recursion."""
    inside: list[_OpenLevel] = []
    position = start
    while position + 8 <= len(data):
        while inside and (end := inside[-1].end) is not None and position >= end:
            inside.pop()
        encoding_here = inside[-1].encoding if inside else encoding
        element = encoding_here.element(data, position)
        position = element.value_offset
        defined_end = None if element.length == _UNDEFINED else position + element.length
        if element.tag[0] == 0xFFFE:
            if element.tag[1] != 0xE000:  # a delimiter ends the innermost sequence or item
                if inside:
                    inside.pop()
            elif inside and inside[-1].fragments and defined_end is not None:
                position = defined_end
            else:
                inside.append(_OpenLevel(end=defined_end, encoding=encoding_here))
        elif element.tag == _PIXEL_DATA and not inside:
            return
        elif defined_end is None:
            within = _Encoding(implicit=True, little_endian=True) if element.vr == b"UN" else encoding_here
            inside.append(_OpenLevel(end=None, encoding=within, fragments=element.vr in (b"OB", b"OW")))
        elif element.vr == b"SQ" or element.tag in _READ_SEQUENCES:
            inside.append(_OpenLevel(end=defined_end, encoding=encoding_here))
        else:
            position = defined_end
        if len(inside) > 2 * MAXIMUM_DEPTH:  # each level is a sequence and an item
            raise ImageUnreadable(f"sequences are nested more than {MAXIMUM_DEPTH} deep")
