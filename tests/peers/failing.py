"""A database that is away when it is called first."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

from db.errors import DatabaseUnavailable

P = ParamSpec("P")
T = TypeVar("T")


def failing_once(function: Callable[P, T]) -> Callable[P, T]:
    """As ``function``, but the database is away at the first call."""
    calls: list[object] = []

    def called(*arguments: P.args, **keywords: P.kwargs) -> T:
        calls.append(arguments)
        if len(calls) == 1:
            raise DatabaseUnavailable("The database does not answer.")
        return function(*arguments, **keywords)

    return called
