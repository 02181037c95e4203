"""The members of a JSON object from a reader process, each checked for its type and range before it is used."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.reading.display import LARGEST_VALUE
from inference.reading.forms import UID_FORM
from inference.reading.wire import Nonsense

LONGEST_TEXT = 1 << 20
_WHOLE = 1 << 62


class Fields:
    """The members of a JSON object, each with the type and range that it has to have."""

    def __init__(self, document: object) -> None:
        if not isinstance(document, dict):
            raise Nonsense("no object")
        self._members = document

    def has(self, name: str) -> bool:
        return self._members.get(name) is not None

    def any(self, name: str) -> Any:
        return self._members.get(name)

    def text(self, name: str, longest: int = LONGEST_TEXT) -> str:
        value = self._members.get(name)
        if not isinstance(value, str) or len(value) > longest:
            raise Nonsense(name)
        return value

    def uid(self, name: str) -> str:
        value = self.text(name)
        if UID_FORM.fullmatch(value) is None:
            raise Nonsense(name)
        return value

    def whole(self, name: str, lowest: int = -_WHOLE, highest: int = _WHOLE) -> int:
        value = self._members.get(name)
        if type(value) is not int or not lowest <= value <= highest:
            raise Nonsense(name)
        return value

    def real(self, name: str) -> float:
        return _real(self._members.get(name), name)

    def reals(self, name: str, count: int) -> list[float]:
        return [_real(value, name) for value in self.listed(name, count, count)]

    def listed(self, name: str, fewest: int, most: int) -> Sequence[Any]:
        value = self._members.get(name)
        if not isinstance(value, list) or not fewest <= len(value) <= most:
            raise Nonsense(name)
        return value

    def object(self, name: str) -> Fields:
        return Fields(self._members.get(name))


def _real(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST_VALUE:
        raise Nonsense(name)
    return float(value)
