"""Errors whose messages a person at the command line reads.

OverreadError
├── ConfigurationError      the configuration cannot be used; every fault is listed
└── CommandError            a command could not do what was asked
    └── UsageError          it was called with something that it cannot use
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb

ENDED_ITSELF = 70
"""Exit status of a process that ends itself: its job hangs, or its device or supervisor is gone (EX_SOFTWARE)."""


def raised_at(error: BaseException) -> str:
    """Where an error was raised, as ``file:line:function``. For the log, because messages may quote patient data."""
    places = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    if not places:
        return "unknown"
    code, line = places[-1]
    return f"{Path(code.co_filename).name}:{line}:{code.co_name}"


class OverreadError(Exception):
    """Something that the operator has to act on. The message says in one sentence what to do."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with a configuration. ``key`` is dotted, such as ``engine.0.model``."""

    key: str
    message: str
    variable: str = ""
    """The environment variable that set the value; empty if the file did."""

    def __str__(self) -> str:
        """The message, after the key if there is one."""
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigurationError(OverreadError):
    """The configuration cannot be used. The message lists all faults, one a line."""

    def __init__(self, file: Path, faults: Sequence[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.variable or file}: {fault}" for fault in self.faults))


class CommandError(OverreadError):
    """A command could not do what it was asked to."""


class UsageError(CommandError):
    """A command was called with arguments that it cannot use."""
