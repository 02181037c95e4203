"""One engine at work: inputs are read side by side, cases analysed in batches, and what fails is tried in halves.

The worker and ``overread infer`` both run this; they differ in where files come from and where results go.
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
    """What a failure is due to, and so whether it may pass."""

    INPUT = "input"
    """The input, which would fail again."""
    ENGINE = "engine"
    """Something that the engine needs, which may be there soon."""
    DISK = "disk"
    """The disk, which may be away for a while."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why an input has no analysis, though the engine might take it."""

    path: Path
    reason: str
    cause: Cause


Result = Analysis | Refusal | Failure
"""What came of one case."""
Inputs = Sequence[Path] | Refusal | Failure
"""The files of an item, or why there are none."""


class Batches(Generic[Item]):
    """Runs items, each the files of one or more cases, through an engine; ``size`` of them make a batch."""

    def __init__(
        self, engine: Engine, inputs: Callable[[Item], Inputs], readers: ThreadPoolExecutor, size: int
    ) -> None:
        self._engine = engine
        self._inputs = inputs
        self._readers = readers
        self._size = max(1, size)

    def run(self, items: Sequence[Item]) -> Iterator[tuple[Item, list[Result]]]:
        """The results of every item in order, as soon as there are some.

        While one batch is analysed, the next one is read.

        Raises
        ------
        DeviceLost
            If the engine's device answers no more; items without results have to run in another process.
        """
        batches = [items[start : start + self._size] for start in range(0, len(items), self._size)]
        reading = self._read(batches[0]) if batches else []
        for number, batch in enumerate(batches):
            read = [future.result() for future in reading]
            reading = self._read(batches[number + 1]) if number + 1 < len(batches) else []
            cases = [case for of_item in read for case in of_item if not isinstance(case, (Refusal, Failure))]
            analyses = self._analysed(cases)
            for item, of_item in zip(batch, read, strict=True):
                yield item, [c if isinstance(c, (Refusal, Failure)) else next(analyses) for c in of_item]

    def _read(self, items: Sequence[Item]) -> list[Future[list[Case | Refusal | Failure]]]:
        return [self._readers.submit(self._prepared, item) for item in items]

    def _prepared(self, item: Item) -> list[Case | Refusal | Failure]:
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
            # Preprocessing runs foreign code on foreign data; one input's fault is its own.
            kind = type(error).__name__
            log.error(
                "prepare_failed engine=%s error=%s place=%s",
                self._engine.settings.name,
                kind,
                raised_at(error),
            )
            reason = f"the inputs cannot be prepared ({kind})"
            return [Failure(path=files[0], reason=reason, cause=Cause.INPUT)]

    def _analysed(self, cases: Sequence[Case]) -> Iterator[Analysis | Failure]:
        """The analysis of each case or why there is none, in order."""
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
            # Engines run foreign code, which raises what it likes; each case gets its own result from that.
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
        # Only here, where the error is gone: its frames hold what the batch has on the device.
        check_device(engine.device)
        if len(cases) == 1:
            yield Failure(path=cases[0].source.path, reason=reason, cause=cause)
            return
        middle = len(cases) // 2
        yield from self._analysed(cases[:middle])
        yield from self._analysed(cases[middle:])


def check_device(name: str) -> None:
    """See that an engine's device still works in this process.

    Raises:
        DeviceLost: it does not.
    """
    # Without torch no device but CUDA can have been used here.
    if name.startswith("cuda") or "torch" in sys.modules:
        from inference.running.device import check_device

        check_device(name)
