"""Values of top-level attributes, read straight from the bytes of a dataset.

Of a deflated dataset at most the first ``MAXIMUM_INFLATED`` bytes are inflated.

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
"""Longer values are ignored (bytes)."""
MAXIMUM_INFLATED = 16 * 1024 * 1024
TEXT_VRS = frozenset({"SH", "LO", "ST", "LT", "PN", "UC", "UT"})
SINGLE_TEXT_VRS = frozenset({"ST", "LT", "UT", "UR"})
"""Always a single value: a backslash is an ordinary character."""
NUMBERS = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}
FIRST_TAG = 0x00080000
"""Lower groups are those of commands and file meta information."""
LAST_TAG = 0x7FDFFFFF
"""The last tag before the pixel data."""
CHARACTER_SET = 0x00080005


def read_attributes(
    data: bytes | memoryview, transfer_syntax_uid: str, keywords: frozenset[str]
) -> dict[str, AttributeValue]:
    """The values of top-level attributes of an encoded dataset, by keyword.

    Reading stops at the first tag beyond all wanted ones, and at the pixel data.

    Args:
        data: the dataset; what follows the last wanted attribute may be missing.
        transfer_syntax_uid: how it is encoded.
        keywords: the wanted attributes.

    Returns:
        The wanted attributes that are present, with None for an empty value. Values longer than
        ``MAXIMUM_VALUE_LENGTH`` are left out, and so are sequences.

    Raises:
        ScanError: the bytes are not a dataset in that transfer syntax, or it is nested too deeply.
    """
    if transfer_syntax_uid == DEFLATED_LITTLE:
        data = _inflate(data)
    wanted = _keywords_by_tag(keywords)
    raw: dict[int, tuple[bytes, bytes]] = {}
    previous = FIRST_TAG
    for tag, vr, value in walk(data, transfer_syntax_uid, min(max(wanted), LAST_TAG)):
        if tag < previous:
            raise ScanError("the dataset's elements are not in order")
        previous = tag
        if value is not None and tag in wanted and len(value) <= MAXIMUM_VALUE_LENGTH and vr != b"SQ":
            raw[tag] = (vr or _dictionary_vr(tag), bytes(value))
    declared = raw.get(CHARACTER_SET)
    character_sets = _decode_latin(declared[1]).split("\\") if declared else []
    order = byte_order(transfer_syntax_uid)
    values = {wanted[tag]: _convert(vr, value, character_sets, order) for tag, (vr, value) in raw.items()}
    return {keyword: value for keyword, value in values.items() if keyword in keywords}


@cache
def _keywords_by_tag(keywords: frozenset[str]) -> Mapping[int, str]:
    """The keywords of the tags to read: the wanted ones, and the character set, which decoding needs."""
    tags = {tag_for_keyword(keyword): keyword for keyword in sorted(keywords | {"SpecificCharacterSet"})}
    return {tag: keyword for tag, keyword in tags.items() if tag is not None}


@cache
def _dictionary_vr(tag: int) -> bytes:
    """The VR of a tag in the data dictionary, needed for implicit VR."""
    return dictionary_VR(tag).split(" ")[0].encode()


def _inflate(data: bytes | memoryview) -> bytes:
    try:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, MAXIMUM_INFLATED)
    except zlib.error:
        raise ScanError("the deflated dataset is damaged") from None


def _decode_latin(value: bytes) -> str:
    return value.decode("latin-1").strip(" \0")


def _convert(vr: bytes, value: bytes, character_sets: list[str], order: str) -> AttributeValue:
    name = vr.decode("ascii")
    if name in NUMBERS:
        code = NUMBERS[name]
        size = struct.calcsize(code)
        if len(value) % size:
            raise ScanError("a number has a wrong length")
        numbers = [str(n) for n in struct.unpack(f"{order}{len(value) // size}{code}", value)]
        return None if not numbers else numbers[0] if len(numbers) == 1 else numbers
    if (name in TEXT_VRS and not value.isascii()) or b"\x1b" in value:
        text = _decode_text(value, character_sets)
    else:
        text = _decode_latin(value)
    text = text.replace("\0", "").strip(" ")
    if not text:
        return None
    if "\\" in text and name not in SINGLE_TEXT_VRS:
        return [part.strip(" ") for part in text.split("\\")]
    return text


def _decode_text(value: bytes, character_sets: list[str]) -> str:
    """Decode text in the declared character sets; undecodable bytes become question marks."""
    try:
        encodings = convert_encodings(character_sets or [""])
        return decode_bytes(value, encodings, {0x0A, 0x0C, 0x0D, 0x5C, 0x5E, 0x3D})
    except (LookupError, ValueError):
        return value.decode("ascii", "replace").replace("\ufffd", "?")
