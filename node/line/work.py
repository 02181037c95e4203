"""One input on its way through the line, what becomes of it, and how long each stage took."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Generic, TypeVar

from inference.engine import Case, Engine
from inference.findings import Analysis, Refusal

Item = TypeVar("Item")
Made = TypeVar("Made")

_numbers = itertools.count()


class Cause(StrEnum):
    """What caused a failure, which decides whether to try again."""

    INPUT = "input"
    """The input: it would fail again."""
    ENGINE = "engine"
    """The engine: something that it needs may be there soon."""
    DISK = "disk"
    """The disk: it may be back later."""
    PROCESS = "process"
    """A stage process ended or took too long: the input may have done it, so it is tried again alone."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a case has no analysis, although the engine did not refuse it."""

    path: Path
    reason: str
    cause: Cause


Result = Analysis | Refusal | Failure
"""The outcome of one case."""
Inputs = Sequence[Path] | Refusal | Failure
"""The files of an item, or why it has none."""


@dataclass(frozen=True, kw_only=True)
class NetworkOutput:
    """What the networks say of a case."""

    case: Case | None
    """Without what only the networks need; None if ``value`` is an Analysis already."""
    value: Any
    """Of the engine's own type, or an Analysis."""


Finish = Callable[[list[Result]], Made]
"""Makes what becomes of an item from the results of its cases, in a stage process; it can be pickled."""


@dataclass(kw_only=True)
class StageTimes:
    """Milliseconds that one piece of work took, or waited, at each stage."""

    prepare_ms: float = 0.0
    """Reading and preparing its files."""
    device_ms: float = 0.0
    """Its share of the batches that its cases were in, on the device."""
    wait_ms: float = 0.0
    """In the queues between the stages."""
    write_ms: float = 0.0
    """Making its results and writing their files."""
    sync_ms: float = 0.0
    """Making the files durable, together with others."""


@dataclass(kw_only=True, eq=False)
class Work(Generic[Item, Made]):
    """One item: the files of one or more cases for one engine."""

    item: Item
    engine: Engine
    inputs: Inputs
    finish: Finish[Made]
    priority: int = 0
    """Higher goes first at every stage."""
    most_in_batch: int = 1
    """Cases in one batch of the device."""
    longest_wait: float = 0.0
    """Seconds that a prepared case waits for others of its engine to fill a batch."""
    deadline_seconds: float = 1800.0
    """For each stage."""
    number: int = field(default_factory=lambda: next(_numbers))
    """Order of arrival."""
    times: StageTimes = field(default_factory=StageTimes)
    outputs: list[NetworkOutput | Refusal | Failure | None] = field(default_factory=list, repr=False)
    """One for each case; None while the device has not run it."""
    made: Made | Failure | None = None
    """What became of it, once it has left the line."""
    _since: float = field(default_factory=time.monotonic)
    """When it last entered or left a stage."""

    @property
    def order(self) -> tuple[int, int]:
        """The smallest goes first."""
        return -self.priority, self.number

    def enter_stage(self) -> None:
        """Note that it has waited until now."""
        self.times.wait_ms += self.leave_stage()

    def leave_stage(self) -> float:
        """The milliseconds since it entered the stage, which is over now."""
        since, self._since = self._since, time.monotonic()
        return 1000 * (self._since - since)
