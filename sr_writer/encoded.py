"""Text of attributes that a dataset holds as encoded bytes, read without validation.

When pydicom decodes an element, it validates the value and quotes it in a warning. A patient's name must not get into
a log that way, and an unusual value must not stop a report.

References: PS3.5 section 6.1 (character repertoires), PS3.3 section C.12.1.1.2 (Specific Character Set).
"""

from __future__ import annotations

from pydicom.charset import convert_encodings, decode_bytes, default_encoding
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue
from pydicom.tag import Tag

_TEXT_VRS = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
"""Value representations that Specific Character Set (0008,0005) applies to."""

_BINARY_VRS = frozenset({"FD", "FL", "SL", "SS", "UL", "US"})
"""Value representations whose values are not characters."""

_DELIMITERS = {ord(c) for c in "\\^=\r\n\t\f"}
"""Characters at which the effect of an escape sequence ends (PS3.5 section 6.1.2.5.3)."""


def encodings(dataset: Dataset) -> str | list[str]:
    """Python encodings for the dataset's Specific Character Set, in the form in which pydicom compares them."""
    character_set = dataset.get("SpecificCharacterSet")
    return convert_encodings(character_set) if character_set else default_encoding


def encoded_text(dataset: Dataset, keyword: str) -> str:
    """Value of a string or number attribute as text, empty if absent; several values are joined by backslashes."""
    tag = Tag(keyword)
    if tag not in dataset:
        return ""
    element = dataset.get_item(tag)
    if not isinstance(element, RawDataElement) or element.VR in _BINARY_VRS:
        value = dataset[tag].value
        values = value if isinstance(value, MultiValue | list | tuple) else [value]
        return "\\".join("" if v is None else str(v) for v in values)
    encoded = element.value or b""
    if element.VR in _TEXT_VRS:
        known = encodings(dataset)
        text = decode_bytes(encoded, [known] if isinstance(known, str) else known, _DELIMITERS)
    else:
        text = encoded.decode("latin-1")
    return text.strip(" \0")
