"""A DICOM file as a receiver would get it: the transfer syntax of its file meta information, and its dataset's bytes.

References: PS3.10 section 7.1 (preamble, prefix, file meta information in explicit VR little endian).
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterable
from pathlib import Path

from handlers.errors import ScanError
from handlers.spool.scan import LONG_VRS, AttributeValue, scan

PREFIX_AT = 128
DATASET_AT = 132
META_GROUP = b"\x02\x00"
TRANSFER_SYNTAX = b"\x02\x00\x10\x00"


def scan_file(path: Path, extra: Iterable[str] = ()) -> dict[str, AttributeValue] | None:
    """The attributes of a file that a receiver would index; None for a file that is no Part 10 file.

    Raises:
        OSError: it cannot be read.
        ScanError: a receiver would refuse it.
    """
    if path.stat().st_size <= DATASET_AT:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[PREFIX_AT:DATASET_AT] != b"DICM":
            return None
        transfer_syntax, start = _meta(mapped)
        view = memoryview(mapped)
        complaint = None
        attributes: dict[str, AttributeValue] = {}
        with view, view[start:] as dataset:
            try:
                attributes = scan(dataset, transfer_syntax, extra)
            except ScanError as error:
                # Not raised on from here: its traceback would hold the mapped file open.
                complaint = str(error)
    if complaint is not None:
        raise ScanError(complaint)
    return attributes


def _meta(data: mmap.mmap) -> tuple[str, int]:
    """The transfer syntax, and where the dataset begins."""
    position, transfer_syntax = DATASET_AT, ""
    while data[position : position + 2] == META_GROUP:
        head = 12 if data[position + 4 : position + 6] in LONG_VRS else 8
        code, size = ("<I", 4) if head == 12 else ("<H", 2)
        if position + head > len(data):
            raise ScanError("the file meta information ends in the middle of an element")
        (length,) = struct.unpack_from(code, data, position + head - size)
        if data[position : position + 4] == TRANSFER_SYNTAX:
            value = data[position + head : position + head + length]
            transfer_syntax = value.decode("ascii", "replace").rstrip("\0 ")
        position += head + length
    if not transfer_syntax:
        raise ScanError("the file meta information has no transfer syntax")
    return transfer_syntax, min(position, len(data))
