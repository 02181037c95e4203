"""Runs inputs through one engine in batches. A batch that fails is tried again in halves.

The worker and ``overread infer`` both use this; they differ in where files come from and where results go.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Generic, TypeVar

from inference.engine import Case, Engine
from inference.errors import InferenceError, is_out_of_memory
from inference.findings import Analysis, Refusal
from node.errors import raised_at

log = logging.getLogger("overread.batches")

TOO_LITTLE_MEMORY = "the device has too little memory for this input alone"

Item = TypeVar("Item")


class Cause(StrEnum):
    """What caused a failure, which decides whether to try again."""

    INPUT = "input"
    """The input: it would fail again."""
    ENGINE = "engine"
    """The engine: something that it needs may be there soon."""
    DISK = "disk"
    """The disk: it may be back later."""


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


class Batches(Generic[Item]):
    """Runs items through an engine. An item has the files of one or more cases.

    Args:
        engine: a loaded engine.
        inputs: gives the files of an item; called in a thread of ``readers``.
        readers: the threads that read and prepare.
        size: items in a batch.
    """

    def __init__(
        self, engine: Engine, inputs: Callable[[Item], Inputs], readers: ThreadPoolExecutor, size: int
    ) -> None:
        self._engine = engine
        self._inputs = inputs
        self._readers = readers
        self._size = max(1, size)

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Item, list[Result]]]:
        """Yield each item with the results of its cases, in order, as soon as they are there.

        While one batch is analysed, the next one is read.

        Raises:
            DeviceLost: the engine's device no longer works in this process. Items without results have to run in
                another one.
        """
        batches = [items[start : start + self._size] for start in range(0, len(items), self._size)]
        reading = self._start_reading(batches[0]) if batches else []
        for number, batch in enumerate(batches):
            read = [future.result() for future in reading]
            reading = self._start_reading(batches[number + 1]) if number + 1 < len(batches) else []
            cases = [
                case for item_cases in read for case in item_cases if not isinstance(case, (Refusal, Failure))
            ]
            analyses = self._analyse(cases)
            for item, item_cases in zip(batch, read, strict=True):
                yield item, [c if isinstance(c, (Refusal, Failure)) else next(analyses) for c in item_cases]

    def _start_reading(self, items: Sequence[Item]) -> list[Future[list[Case | Refusal | Failure]]]:
        return [self._readers.submit(self._prepare, item) for item in items]

    def _prepare(self, item: Item) -> list[Case | Refusal | Failure]:
        files = self._inputs(item)
        if isinstance(files, (Refusal, Failure)):
            return [files]
        try:
            return list(self._engine.prepare(files))
        except OSError as error:
            log.warning("inputs_not_read engine=%s error=%s", self._engine.settings.name, error.strerror)
            reason = f"the inputs cannot be read: {error.strerror}"
            return [Failure(path=files[0], reason=reason, cause=Cause.DISK)]
        except Exception as error:
            # Preprocessing runs foreign code on foreign data; a fault fails only this input.
            kind = type(error).__name__
            log.error(
                "prepare_failed engine=%s error=%s place=%s",
                self._engine.settings.name,
                kind,
                raised_at(error),
            )
            reason = f"the inputs cannot be prepared ({kind})"
            return [Failure(path=files[0], reason=reason, cause=Cause.INPUT)]

    def _analyse(self, cases: Sequence[Case]) -> Iterator[Analysis | Failure]:
        """The analysis of each case, or why there is none, in order."""
        if not cases:
            return
        engine, cause = self._engine, Cause.INPUT
        try:
            yield from engine.infer(cases)
            return
        except InferenceError as error:
            log.warning("batch_failed engine=%s cases=%d", engine.settings.name, len(cases))
            reason, cause = str(error), Cause.ENGINE
        except Exception as error:
            # Engines run foreign code, which may raise anything.
            kind, place = type(error).__name__, raised_at(error)
            log.error(
                "inference_failed engine=%s cases=%d error=%s place=%s",
                engine.settings.name,
                len(cases),
                kind,
                place,
            )
            reason = f"the engine failed on this input ({kind} at {place})"
            if is_out_of_memory(error):
                reason = TOO_LITTLE_MEMORY
        # Only here, where the error is released: its frames keep the batch's memory on the device.
        ensure_device_works(engine.device)
        if len(cases) == 1:
            yield Failure(path=cases[0].source.path, reason=reason, cause=cause)
            return
        middle = len(cases) // 2
        yield from self._analyse(cases[:middle])
        yield from self._analyse(cases[middle:])


def ensure_device_works(name: str) -> None:
    """Check that an engine's device still works in this process.

    Raises:
        DeviceLost: it no longer does.
    """
    # If torch is not loaded and the device is not CUDA, no device was used here.
    if name.startswith("cuda") or "torch" in sys.modules:
        from inference.running.device import check_device

        check_device(name)
