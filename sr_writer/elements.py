"""Data elements as encoded bytes, in Explicit VR Little Endian.

Reports have some hundred items of which each has a few short values. As bytes an item takes a few microseconds, as a
pydicom data set with its encoding half a millisecond. pydicom decodes such bytes again when somebody looks at them.

All text is our own and plain ASCII (``strings.plain``), so no character set applies.

References: PS3.5 sections 6.2 (padding), 7.1.2 (data elements with explicit VR), 7.5 (nesting of data sets).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from functools import cache, lru_cache

from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.tag import BaseTag, Tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32

_ITEM = struct.pack("<HH", 0xFFFE, 0xE000)
"""Tag of an item (PS3.5 table 7.5-1)."""

_PADDED_WITH_ZERO = frozenset({"FD", "FL", "OB", "SQ", "UI", "US"})

_CODE_VALUE_LENGTH = 16
"""Most characters of Code Value (0008,0100); longer ones are in Long Code Value (PS3.3 section 8.1)."""

_LONGEST_SHORT = 0xFFFF
"""Longest value in bytes of the value representations whose length has 16 bits."""


def element(keyword: str, value: bytes) -> bytes:
    """The data element of an attribute with an encoded value, which is padded if its length is odd."""
    if len(value) % 2:
        _, vr = _tag_and_vr(keyword)
        value += b"\0" if vr in _PADDED_WITH_ZERO else b" "
    return element_header(keyword, len(value)) + value


def element_header(keyword: str, length: int, vr: str = "") -> bytes:
    """Tag, value representation and length of a data element, ahead of its value of an even length in bytes.

    Without a ``vr`` it is that of the data dictionary.
    """
    tag, usual_vr = _tag_and_vr(keyword)
    vr = vr or usual_vr
    if vr not in EXPLICIT_VR_LENGTH_32:
        if length <= _LONGEST_SHORT:
            return struct.pack("<HH2sH", tag.group, tag.element, vr.encode(), length)
        vr = "UN"  # PS3.5 section 6.2.2
    return struct.pack("<HH2sHI", tag.group, tag.element, vr.encode(), 0, length)


def text_element(keyword: str, value: str) -> bytes:
    """The data element of an attribute with a value of characters, which are ASCII."""
    return element(keyword, value.encode("ascii"))


def item(*elements: bytes) -> bytes:
    """An item of a sequence; its elements have to be in the order of their tags."""
    content = b"".join(elements)
    return _ITEM + len(content).to_bytes(4, "little") + content


def sequence(keyword: str, items: Iterable[bytes]) -> bytes:
    """The data element of a sequence."""
    return element(keyword, b"".join(items))


def code_sequence(keyword: str, code: Code) -> bytes:
    """The data element of a sequence that has a code as its only item."""
    return sequence(keyword, [code_item(code)])


def code_item(code: Code) -> bytes:
    """An item for a code (PS3.3 section 8.1)."""
    return _code_item(code.value, code.scheme_designator, code.meaning)


@lru_cache(maxsize=1024)
def _code_item(value: str, scheme: str, meaning: str) -> bytes:
    # Kept by its texts, because two codes are equal even if their meanings are not.
    if len(value) <= _CODE_VALUE_LENGTH:
        return item(
            text_element("CodeValue", value),
            text_element("CodingSchemeDesignator", scheme),
            text_element("CodeMeaning", meaning),
        )
    return item(
        text_element("CodingSchemeDesignator", scheme),
        text_element("CodeMeaning", meaning),
        text_element("LongCodeValue", value),
    )


def set_items(dataset: Dataset, keyword: str, items: Iterable[bytes]) -> None:
    """Set a sequence of a data set to encoded items."""
    tag, vr = _tag_and_vr(keyword)
    value = b"".join(items)
    dataset[tag] = RawDataElement(tag, vr, len(value), value, 0, False, True)


@cache
def _tag_and_vr(keyword: str) -> tuple[BaseTag, str]:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is no keyword of the data dictionary")
    return Tag(tag), dictionary_VR(tag)
