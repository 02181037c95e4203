"""Our own text in DICOM values: plain ASCII of limited length, which fits every character set."""

from __future__ import annotations

import unicodedata

LONG_STRING = 64
"""Most characters of VR LO."""

SHORT_TEXT = 1024
"""Most characters of VR ST."""


def plain(text: str, length: int) -> str:
    """``text`` as ASCII with at most ``length`` characters, without control characters or backslashes.

    Every character set of PS3.3 section C.12.1.1.2 contains the graphic characters of ASCII. The backslash is the
    exception: it separates values, and JIS X 0201 has another character in its place.
    """
    decomposed = unicodedata.normalize("NFKD", text)
    characters = (_plain_character(c) for c in decomposed if not unicodedata.combining(c))
    return "".join(characters).strip()[:length].strip()


def _plain_character(character: str) -> str:
    if character.isspace():
        return " "
    return character if " " < character <= "~" and character != "\\" else "?"
