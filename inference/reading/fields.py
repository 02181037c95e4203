"""Members of a JSON object from a reader process, checked for type and range when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from inference.reading.display import LARGEST_VALUE
from inference.reading.forms import UID_FORM
from inference.reading.wire import MalformedMessage

LONGEST_TEXT = 1 << 20
_LARGEST_INTEGER = 1 << 62


class Fields:
    """The members of a JSON object, by methods that check their type and range.

    Raises:
        MalformedMessage: from the class if the document is no object, from every method but ``has`` and ``value``
            if the member is absent, has another type or is out of range.
    """

    def __init__(self, document: object) -> None:
        if not isinstance(document, dict):
            raise MalformedMessage("no object")
        self._members = document

    def has(self, name: str) -> bool:
        """Whether there is a member of this name that is not null."""
        return self._members.get(name) is not None

    def value(self, name: str) -> Any:
        """A member of any type, unchecked; None if it is absent."""
        return self._members.get(name)

    def text(self, name: str, longest: int = LONGEST_TEXT) -> str:
        """A string of at most ``longest`` characters."""
        value = self._members.get(name)
        if not isinstance(value, str) or len(value) > longest:
            raise MalformedMessage(name)
        return value

    def uid(self, name: str) -> str:
        """A string that has the form of a UID."""
        value = self.text(name)
        if UID_FORM.fullmatch(value) is None:
            raise MalformedMessage(name)
        return value

    def integer(self, name: str, lowest: int = -_LARGEST_INTEGER, highest: int = _LARGEST_INTEGER) -> int:
        """An integer in [``lowest``, ``highest``]."""
        value = self._members.get(name)
        if type(value) is not int or not lowest <= value <= highest:
            raise MalformedMessage(name)
        return value

    def number(self, name: str) -> float:
        """A finite number, at most ``LARGEST_VALUE`` in magnitude."""
        return _number(self._members.get(name), name)

    def numbers(self, name: str, count: int) -> list[float]:
        """A list of ``count`` numbers as ``number`` gives them."""
        return [_number(value, name) for value in self.items(name, count, count)]

    def items(self, name: str, fewest: int, most: int) -> Sequence[Any]:
        """A list of ``fewest`` to ``most`` items, which are unchecked."""
        value = self._members.get(name)
        if not isinstance(value, list) or not fewest <= len(value) <= most:
            raise MalformedMessage(name)
        return value

    def object(self, name: str) -> Fields:
        """The members of an object within this one."""
        return Fields(self._members.get(name))


def _number(value: object, name: str) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or not abs(value) <= LARGEST_VALUE:
        raise MalformedMessage(name)
    return float(value)
