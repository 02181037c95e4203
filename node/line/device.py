"""The device's thread: runs networks on prepared cases, in batches across works. A batch that fails is halved."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from inference.engine import Case, Engine, StagedCase, StagedEngine
from inference.errors import DeviceLost, InferenceError, is_out_of_memory
from node.errors import raised_at
from node.line.work import Cause, Failure, NetworkOutput, Work

log = logging.getLogger("overread.line")

END_SECONDS = 5.0

TOO_LITTLE_MEMORY = "the device has too little memory for this input alone"


@dataclass(kw_only=True, eq=False)
class Ready:
    """A prepared case that waits for the device."""

    work: Work[Any, Any]
    place: int
    """Its index among the work's cases."""
    case: Case
    since: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, kw_only=True)
class Running:
    """What the device does now."""

    works: tuple[Work[Any, Any], ...]
    since: float

    @property
    def overdue(self) -> bool:
        """Whether it takes longer than one of its works allows."""
        return time.monotonic() - self.since > min(work.deadline_seconds for work in self.works)


class Device:
    """Runs the cases of any number of engines that share a device."""

    def __init__(
        self,
        coming: Callable[[Engine], bool],
        done: Callable[[Ready, NetworkOutput | Failure], None],
        lost: Callable[[DeviceLost], None],
    ) -> None:
        """Start the thread.

        Args:
            coming: whether cases of an engine are being prepared, for which a batch might wait.
            done: gets each case with its result, in the device's thread.
            lost: called if the device no longer works in this process; nothing runs any more then.
        """
        self._coming = coming
        self._done = done
        self._lost = lost
        self._ready: list[Ready] = []
        self._changed = threading.Condition()
        self._closed = False
        self.running: Running | None = None
        self._thread = threading.Thread(target=self._serve, name="device", daemon=True)
        self._thread.start()

    def add(self, cases: Sequence[Ready]) -> None:
        """Have cases run."""
        with self._changed:
            self._ready += cases
            self._changed.notify()

    def close(self) -> None:
        """End the thread after its present batch, for which this waits a moment."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(END_SECONDS)

    def _serve(self) -> None:
        while batch := self._next_batch():
            try:
                for entry, result in self._run(batch):
                    self._done(entry, result)
            except DeviceLost as error:
                log.critical("device_lost device=%s", error)
                self._lost(error)
                return
            finally:
                self.running = None

    def _next_batch(self) -> list[Ready]:
        """The next cases of one engine; empty if the thread must end.

        The first case decides the engine. It waits for others only while there are some in preparation, and not
        longer than its work says.
        """
        with self._changed:
            while not self._closed:
                if not self._ready:
                    self._changed.wait()
                    continue
                self._ready.sort(key=lambda entry: (entry.work.order, entry.place))
                first = self._ready[0]
                engine, most = first.work.engine, first.work.most_in_batch
                batch = [entry for entry in self._ready if entry.work.engine is engine][:most]
                left = first.since + first.work.longest_wait - time.monotonic()
                if len(batch) == most or left <= 0 or not self._coming(engine):
                    self._ready = [entry for entry in self._ready if entry not in batch]
                    return batch
                self._changed.wait(left)
            return []

    def _run(self, batch: Sequence[Ready]) -> Iterator[tuple[Ready, NetworkOutput | Failure]]:
        """Each case with its result, as soon as it is there.

        Raises:
            DeviceLost: the device no longer works in this process.
        """
        engine, cause = batch[0].work.engine, Cause.INPUT
        works = tuple({id(entry.work): entry.work for entry in batch}.values())
        for work in works:
            work.enter_stage()
        self.running = Running(works=works, since=time.monotonic())
        try:
            cases = [entry.case for entry in batch]
            run = engine.run if isinstance(engine, StagedEngine) else engine.infer
            outputs = run(cases)
            share = 1000 * (time.monotonic() - self.running.since) / len(batch)
            # All before the first is given away: one that is run again must not have been.
            results = [
                (entry, NetworkOutput(case=_slim(entry.case, engine), value=output))
                for entry, output in zip(batch, outputs, strict=True)
            ]
        except InferenceError as error:
            log.warning("batch_failed engine=%s cases=%d", engine.settings.name, len(batch))
            reason, cause = str(error), Cause.ENGINE
        except Exception as error:
            # Engines run foreign code, which may raise anything.
            kind, place = type(error).__name__, raised_at(error)
            log.error(
                "inference_failed engine=%s cases=%d error=%s place=%s",
                engine.settings.name,
                len(batch),
                kind,
                place,
            )
            reason = f"the engine failed on this input ({kind} at {place})"
            if is_out_of_memory(error):
                reason = TOO_LITTLE_MEMORY
        else:
            for entry in batch:
                entry.work.times.device_ms += share
            yield from results
            return
        # Only here, where the error is released: its frames keep the batch's memory on the device.
        ensure_device_works(engine.device)
        if len(batch) == 1:
            yield batch[0], Failure(path=batch[0].case.source.path, reason=reason, cause=cause)
            return
        middle = len(batch) // 2
        yield from self._run(batch[:middle])
        yield from self._run(batch[middle:])


def ensure_device_works(name: str) -> None:
    """Check that an engine's device still works in this process.

    Raises:
        DeviceLost: it no longer does.
    """
    # If torch is not loaded and the device is not CUDA, no device was used here.
    if name.startswith("cuda") or "torch" in sys.modules:
        from inference.running.device import check_device

        check_device(name)


def _slim(case: Case, engine: Engine) -> Case | None:
    """What a conclusion needs of a case; None if the engine's output is conclusive already."""
    if not isinstance(engine, StagedEngine):
        return None
    return case.without_inputs() if isinstance(case, StagedCase) else case
