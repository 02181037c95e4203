"""Part 10 files: where the dataset begins, and the attributes that a receiver would index if it received it.

References: PS3.10 section 7.1 (preamble, prefix, file meta information in explicit VR little endian).
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

from db.records import AttributeValue
from handlers.encoding.elements import ElementHeaders
from handlers.encoding.uids import EXPLICIT_LITTLE
from handlers.errors import ScanError
from handlers.spool.scan import scan

PREFIX_AT = 128
DATASET_AT = 132
META_GROUP = b"\x02\x00"
TRANSFER_SYNTAX = 0x00020010


def scan_file(path: Path, extra: Iterable[str] = ()) -> dict[str, AttributeValue] | None:
    """The attributes of a file that a receiver would index, and those in ``extra``; None for other than Part 10 files.

    Raises:
        OSError: the file cannot be read.
        ScanError: a receiver would refuse the dataset.
    """
    if path.stat().st_size <= DATASET_AT:
        return None
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        if mapped[PREFIX_AT:DATASET_AT] != b"DICM":
            return None
        problem = None
        attributes: dict[str, AttributeValue] = {}
        with memoryview(mapped) as view:
            try:
                transfer_syntax, start = read_meta_information(view)
                with view[start:] as dataset:
                    attributes = scan(dataset, transfer_syntax, extra)
            except ScanError as error:
                # Not raised here: its traceback would keep the file mapped.
                problem = str(error)
    if problem is not None:
        raise ScanError(problem)
    return attributes


def read_meta_information(data: memoryview) -> tuple[str, int]:
    """The transfer syntax, and where the dataset begins; a missing or wrong group length does no harm.

    Args:
        data: a Part 10 file, or so much of its beginning that the file meta information is in it.

    Raises:
        ScanError: the file meta information is cut off, or has no transfer syntax.
    """
    headers = ElementHeaders(data, EXPLICIT_LITTLE)
    position, transfer_syntax = DATASET_AT, ""
    while bytes(data[position : position + 2]) == META_GROUP:
        tag, _, length, start = headers.at(position)
        if tag == TRANSFER_SYNTAX:
            value = bytes(data[start : start + length])
            transfer_syntax = value.decode("ascii", "replace").rstrip("\0 ")
        position = start + length
    if not transfer_syntax:
        raise ScanError("the file meta information has no transfer syntax")
    return transfer_syntax, min(position, len(data))
