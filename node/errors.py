"""Errors that a person at the command line reads.

OverreadError
├── ConfigurationError      the configuration cannot be used; every fault is listed
└── CommandError            a command could not do what was asked
    └── UsageError          it was called wrongly
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb

ENDED_ITSELF = 70
"""Exit status of a process whose job hung, device is lost or supervisor is gone (EX_SOFTWARE of sysexits)."""


def raised_at(error: BaseException) -> str:
    """File, line and function where an error was raised: what a log may say of it, since messages quote data."""
    places = [(frame.f_code, line) for frame, line in walk_tb(error.__traceback__)]
    if not places:
        return "unknown"
    code, line = places[-1]
    return f"{Path(code.co_filename).name}:{line}:{code.co_name}"


class OverreadError(Exception):
    """Something the operator has to act on; the message is one sentence that says what."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One thing that is wrong with a configuration: where (dotted key) and what."""

    key: str
    message: str
    variable: str = ""
    """The environment variable that the value came from, where it is not the file's."""

    def __str__(self) -> str:
        return f"{self.key}: {self.message}" if self.key else self.message


class ConfigurationError(OverreadError):
    """The configuration cannot be used; all faults are reported together."""

    def __init__(self, file: Path, faults: Sequence[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        super().__init__("\n".join(f"{fault.variable or file}: {fault}" for fault in self.faults))


class CommandError(OverreadError):
    """A command could not do what was asked."""


class UsageError(CommandError):
    """A command was called with something that it cannot use."""
