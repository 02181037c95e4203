"""Attribute matching of C-FIND: one key against the values of an attribute.

References: PS3.4 section C.2.2.2 (attribute matching), PS3.5 section 6.2 (value representations).
"""

from __future__ import annotations

import re
from collections.abc import Sequence

WILDCARD_VRS = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
RANGE_VRS = frozenset({"DA", "TM", "DT"})
NUMBER_VRS = frozenset({"IS", "DS", "US", "SS", "UL", "SL"})


def matches(vr: str, key: str | Sequence[str] | None, values: Sequence[str]) -> bool:
    """Whether a key matches an attribute's values; one matching value is enough.

    An empty key matches everything (universal matching). A key with several values matches if one of them does;
    the standard has this for UIDs, we also accept it for other VRs.
    """
    keys = [key] if isinstance(key, str) else list(key or ())
    keys = [k for k in keys if k]
    if not keys:
        return True
    return any(_value_matches(vr, k, value) for k in keys for value in values)


def _value_matches(vr: str, key: str, value: str) -> bool:
    if vr in RANGE_VRS:
        return _in_range(vr, key, value)
    if vr in NUMBER_VRS:
        return _parse_number(key) is not None and _parse_number(key) == _parse_number(value)
    if vr == "PN":
        return _name_matches(key, value)
    if vr in WILDCARD_VRS:
        return wildcard_matches(key, value)
    return key == value


def is_wildcard(key: str) -> bool:
    """Whether a key of a text VR contains a wildcard."""
    return "*" in key or "?" in key


def wildcard_matches(key: str, value: str) -> bool:
    """Whether ``key``, with ``*`` for any characters and ``?`` for one, matches the whole value.

    Greedy, backtracking only to the last ``*``: the time is at most proportional to the product of both lengths.
    """
    at, star, resume = 0, -1, 0
    position = 0
    while position < len(value):
        if at < len(key) and key[at] == "*":
            star, resume = at, position
            at += 1
        elif at < len(key) and key[at] in ("?", value[position]):
            at += 1
            position += 1
        elif star >= 0:
            at = star + 1
            resume += 1
            position = resume
        else:
            return False
    return all(character == "*" for character in key[at:])


def _name_matches(key: str, value: str) -> bool:
    """Match a person name, ignoring case, against the whole value or one of its component groups."""
    folded = key.rstrip("^= ").casefold()
    groups = [group.rstrip("^ ") for group in value.split("=")]
    return any(wildcard_matches(folded, name.casefold()) for name in [value.rstrip("^= "), *groups])


def _in_range(vr: str, key: str, value: str) -> bool:
    low, high = range_of(vr, key)
    at = _earliest(vr, value)
    return (low is None or low <= at) and (high is None or at <= high)


def range_of(vr: str, key: str) -> tuple[str | None, str | None]:
    """The first and last value of a date, time or datetime key, padded to full length; None for an open end.

    A single value stands for the range that its precision covers: 2024 is the whole year.
    """
    if "-" in key and not (vr == "DT" and re.fullmatch(r"[0-9.]+-[0-9]{4}", key)):
        first, last = key.split("-", 1)
        return (_earliest(vr, first) if first else None), (_latest(vr, last) if last else None)
    return _earliest(vr, key), _latest(vr, key)


def _earliest(vr: str, text: str) -> str:
    return _pad(vr, text, "00000101000000000000")


def _latest(vr: str, text: str) -> str:
    return _pad(vr, text, "99991231235959999999")


def _pad(vr: str, text: str, filling: str) -> str:
    """The digits of a value, with missing ones taken from ``filling`` (YYYYMMDDHHMMSSFFFFFF)."""
    digits = re.sub(r"[^0-9]", "", re.sub(r"[+-][0-9]{4}$", "", text) if vr == "DT" else text)
    template = {"DA": filling[:8], "TM": filling[8:], "DT": filling}[vr]
    return digits[: len(template)] + template[len(digits) :]


def _parse_number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
