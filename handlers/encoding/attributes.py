"""Values of a dataset's top-level attributes, read from its bytes without building a dataset.

A deflated dataset is inflated only as far as needed, and up to a limit.

References: PS3.5 sections 6.1 (character sets), 6.2 (value representations), A.5 (deflated).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping
from functools import cache

from pydicom.charset import convert_encodings, decode_bytes
from pydicom.datadict import dictionary_VR, tag_for_keyword

from db.records import AttributeValue
from handlers.encoding.elements import byte_order, walk
from handlers.encoding.uids import DEFLATED_LITTLE
from handlers.errors import ScanError

MAXIMUM_VALUE_LENGTH = 4096
"""A longer value of a wanted attribute is not worth having."""
MAXIMUM_INFLATED = 16 * 1024 * 1024
TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "PN", "UC", "UT"})
SINGLE_TEXT_VRS = frozenset({"ST", "LT", "UT", "UR"})
"""One value each: a backslash is a character in them."""
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
FIRST_TAG = 0x00080000
"""Groups below belong to commands and file meta information."""
LAST_TAG = 0x7FDFFFFF
"""Pixel data begin behind."""
CHARACTER_SET = 0x00080005


def read_attributes(
    data: bytes | memoryview, transfer_syntax_uid: str, keywords: frozenset[str]
) -> dict[str, AttributeValue]:
    """The wanted top-level attributes of an encoded dataset, read as far as the last of them may stand.

    Args:
        data: the dataset, or as much of its beginning as there is.
        transfer_syntax_uid: how it is encoded.
        keywords: which attributes are wanted.

    Raises:
        ScanError: it is not a dataset of that transfer syntax, or nested too deeply.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE:
        data = _inflate(data)
    wanted = _tags(keywords)
    raw: dict[int, tuple[bytes, bytes]] = {}
    before = FIRST_TAG
    for tag, vr, value in walk(data, transfer_syntax_uid, min(max(wanted), LAST_TAG)):
        if tag < before:
            raise ScanError("the dataset's elements are not in order")
        before = tag
        if value is not None and tag in wanted and len(value) <= MAXIMUM_VALUE_LENGTH and vr != b"SQ":
            raw[tag] = (vr or _representation(tag), bytes(value))
    declared = raw.get(CHARACTER_SET)
    character_sets = _latin(declared[1]).split("\\") if declared else []
    order = byte_order(transfer_syntax_uid)
    values = {wanted[tag]: _value(vr, value, character_sets, order) for tag, (vr, value) in raw.items()}
    return {keyword: value for keyword, value in values.items() if keyword in keywords}


@cache
def _tags(keywords: frozenset[str]) -> Mapping[int, str]:
    """The tags to read, with their keywords; the character set says how to read the others."""
    tags = {tag_for_keyword(keyword): keyword for keyword in sorted(keywords | {"SpecificCharacterSet"})}
    return {tag: keyword for tag, keyword in tags.items() if tag is not None}


@cache
def _representation(tag: int) -> bytes:
    """The VR of a tag in the dictionary, for implicit VR."""
    return dictionary_VR(tag).split(" ")[0].encode()


def _inflate(data: bytes | memoryview) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAXIMUM_INFLATED)
    except zlib.error:
        raise ScanError("the deflated dataset is damaged") from None


def _latin(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _value(vr: bytes, value: bytes, character_sets: list[str], order: str) -> AttributeValue:
    name = vr.decode("ascii")
    if name in NUMBERS:
        code = NUMBERS[name]
        size = struct.calcsize(code)
        if len(value) % size:
            raise ScanError("a number has a wrong length")
        numbers = [str(n) for n in struct.unpack(f"{order}{len(value) // size}{code}", value)]
        return None if not numbers else numbers[0] if len(numbers) == 1 else numbers
    if (name in TEXT_VRS and not value.isascii()) or b"\x1b" in value:
        text = _decode(value, character_sets)
    else:
        text = _latin(value)
    text = text.replace("\0", "").strip(" ")
    if not text:
        return None
    if "\\" in text and name not in SINGLE_TEXT_VRS:
        return [part.strip(" ") for part in text.split("\\")]
    return text


def _decode(value: bytes, character_sets: list[str]) -> str:
    """Text of the declared character sets; bytes that are none of theirs become question marks."""
    try:
        encodings = convert_encodings(character_sets or [""])
        return decode_bytes(value, encodings, {0x0A, 0x0C, 0x0D, 0x5C, 0x5E, 0x3D})
    except (LookupError, ValueError):
        return value.decode("ascii", "replace").replace("\ufffd", "?")
