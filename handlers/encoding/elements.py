"""Iterates over encoded elements; safe for untrusted bytes. All our reading of datasets and commands uses it.

Lengths are checked before use. Sequences are skipped: those of defined length as a whole, those of undefined length
without recursion and at most 64 levels deep.

References: PS3.5 sections 7.1 (element structure) and 7.5 (sequences).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from handlers.encoding.uids import EXPLICIT_BIG, IMPLICIT_LITTLE
from handlers.errors import ScanError

Element = tuple[int, bytes, memoryview | None]
"""Tag, VR (empty if implicit) and value, which is None for a value of undefined length: those are skipped."""

MAXIMUM_DEPTH = 64
UNDEFINED = 0xFFFFFFFF
LAST_TAG = 0xFFFFFFFF
LONG_VRS = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
DELIMITER_GROUP = 0xFFFE
ITEM_END = 0xFFFEE00D
SEQUENCE_END = 0xFFFEE0DD


def byte_order(transfer_syntax_uid: str) -> str:
    """The byte order of a transfer syntax, as the format character of ``struct``."""
    return ">" if transfer_syntax_uid == EXPLICIT_BIG else "<"


def walk(data: bytes | memoryview, transfer_syntax_uid: str, last: int = LAST_TAG) -> Iterator[Element]:
    """The top-level elements of a dataset or command set, up to the first with a tag greater than ``last``.

    Raises:
        ScanError: the bytes are not elements in that transfer syntax, or they are nested too deeply.
    """
    view = memoryview(data)
    headers = ElementHeaders(view, transfer_syntax_uid)
    position, size = 0, len(view)
    while position < size:
        tag, vr, length, start = headers.at(position)
        if tag > last:
            return
        if length == UNDEFINED:
            position = _end_of_undefined(headers, start)
            yield tag, vr, None
            continue
        position = start + length
        if position > size:
            raise ScanError("an element is longer than the dataset")
        yield tag, vr, view[start:position]


class ElementHeaders:
    """Reads the headers of encoded elements: tag, VR and length."""

    def __init__(self, data: memoryview, transfer_syntax_uid: str) -> None:
        order = byte_order(transfer_syntax_uid)
        self.data = data
        self._explicit = transfer_syntax_uid != IMPLICIT_LITTLE
        self._tag = struct.Struct(order + "HH")
        self._short = struct.Struct(order + "H")
        self._long = struct.Struct(order + "I")

    def at(self, position: int) -> tuple[int, bytes, int, int]:
        """Tag, VR (empty if implicit), length and position of the value; the value itself may be cut off.

        Raises:
            ScanError: there is no element at this position.
        """
        data = self.data
        if position + 8 > len(data):
            raise ScanError("the dataset ends in the middle of an element")
        group, element = self._tag.unpack_from(data, position)
        tag = group << 16 | element
        if group == DELIMITER_GROUP or not self._explicit:
            return tag, b"", self._long.unpack_from(data, position + 4)[0], position + 8
        vr = bytes(data[position + 4 : position + 6])
        if vr in LONG_VRS:
            if position + 12 > len(data):
                raise ScanError("the dataset ends in the middle of an element")
            return tag, vr, self._long.unpack_from(data, position + 8)[0], position + 12
        if not (vr.isalpha() and vr.isupper()):
            raise ScanError(f"the element at byte {position} has no value representation")
        return tag, vr, self._short.unpack_from(data, position + 6)[0], position + 8


def _end_of_undefined(headers: ElementHeaders, position: int) -> int:
    """Where a value of undefined length that begins at ``position`` ends; its items may be nested."""
    depth = 1
    while depth:
        tag, _, length, start = headers.at(position)
        position = start
        if tag in (ITEM_END, SEQUENCE_END):
            depth -= 1
        elif length == UNDEFINED:
            depth += 1
            if depth > MAXIMUM_DEPTH * 2:  # each level is a sequence and an item
                raise ScanError(f"its sequences are nested more than {MAXIMUM_DEPTH} levels deep")
        else:
            position = start + length
            if position > len(headers.data):
                raise ScanError("an element is longer than the dataset")
    return position
