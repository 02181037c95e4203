"""The line: takes works through their stages, and gives those back that are finished."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any, Generic

from inference.engine import Case, Engine
from inference.errors import DeviceLost
from inference.findings import Refusal
from node.line.device import Device, Ready
from node.line.pool import Errand, StagePool
from node.line.tasks import Conclude, Prepare
from node.line.work import Cause, Failure, Item, Made, NetworkOutput, Work

PREPARE, CONCLUDE = 1, 0
"""Ranks of tasks of one priority: what is nearly finished goes first, so that the line does not fill up."""


class Line(Generic[Item, Made]):
    """Works on their way. It takes any number of them; the caller bounds how many.

    Thread-safe: one thread may put works onto it and another one take them off.
    """

    def __init__(self, pool: StagePool) -> None:
        self._pool = pool
        self._changed = threading.Condition()
        self._held: dict[int, Work[Item, Made]] = {}
        self._finished: list[Work[Item, Made]] = []
        self._preparing: Counter[int] = Counter()
        """Works in preparation, by the id of their engine."""
        self._lost: DeviceLost | None = None
        self._device = Device(self._is_coming, self._run, self._device_lost)

    def put(self, work: Work[Item, Made]) -> None:
        """Start a work."""
        with self._changed:
            self._held[work.number] = work
        if isinstance(work.inputs, (Refusal, Failure)):
            work.outputs = [work.inputs]
            self._conclude(work)
            return
        with self._changed:
            self._preparing[id(work.engine)] += 1
        self._submit(work, PREPARE, Prepare(files=work.inputs), partial(self._prepared, work))

    def take(self, timeout: float) -> list[Work[Item, Made]]:
        """All works that are finished; waits up to ``timeout`` seconds for the first. They stay ``held``.

        Raises:
            DeviceLost: the device no longer works in this process. Works without results have to run in another one.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._finished or self._lost is not None, timeout)
            if self._lost is not None and not self._finished:
                raise self._lost
            finished, self._finished = self._finished, []
            return finished

    def release(self, work: Work[Item, Made]) -> None:
        """Let go of a finished work."""
        with self._changed:
            self._held.pop(work.number, None)
            self._changed.notify_all()

    def held(self) -> list[Work[Item, Made]]:
        """All works that were put and not released."""
        with self._changed:
            return list(self._held.values())

    def wait_empty(self, timeout: float) -> bool:
        """Wait up to ``timeout`` seconds until nothing is held; whether that is so."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._held, timeout)

    def overdue(self) -> list[Work[Item, Made]]:
        """The works that the device runs for longer than their deadline; nothing but its process' end stops them."""
        running = self._device.running
        return list(running.works) if running is not None and running.overdue else []

    def close(self) -> None:
        """End the stages after what they do now."""
        self._pool.close()
        self._device.close()

    def _is_coming(self, engine: Engine) -> bool:
        return self._preparing[id(engine)] > 0

    def _submit(
        self, work: Work[Item, Made], rank: int, task: Any, done: Callable[[float, Any], None]
    ) -> None:
        def failed(what: str) -> None:
            path = work.inputs[0] if not isinstance(work.inputs, (Refusal, Failure)) else work.inputs.path
            reason = f"the process that {'prepares' if rank == PREPARE else 'writes'} it {what}"
            failure = Failure(path=path, reason=reason, cause=Cause.PROCESS)
            done(work.leave_stage(), [failure] if rank == PREPARE else failure)

        self._pool.submit(
            Errand(
                order=(-work.priority, rank, work.number),
                task=task,
                engine=work.engine,
                deadline_seconds=work.deadline_seconds,
                started=work.enter_stage,
                done=lambda result: done(work.leave_stage(), result),
                failed=failed,
            )
        )

    def _prepared(
        self, work: Work[Item, Made], milliseconds: float, cases: list[Case | Refusal | Failure]
    ) -> None:
        work.times.prepare_ms = milliseconds
        work.outputs = [case if isinstance(case, (Refusal, Failure)) else None for case in cases]
        ready = [
            Ready(work=work, place=place, case=case)
            for place, case in enumerate(cases)
            if not isinstance(case, (Refusal, Failure))
        ]
        with self._changed:
            self._preparing[id(work.engine)] -= 1
        self._device.add(ready)
        if not ready:
            self._conclude(work)

    def _run(self, entry: Ready, output: NetworkOutput | Failure) -> None:
        work = entry.work
        work.outputs[entry.place] = output
        if None not in work.outputs:
            work.leave_stage()
            self._conclude(work)

    def _device_lost(self, error: DeviceLost) -> None:
        with self._changed:
            self._lost = error
            self._changed.notify_all()

    def _conclude(self, work: Work[Item, Made]) -> None:
        outputs = [output for output in work.outputs if output is not None]
        work.outputs = []
        task = Conclude(outputs=outputs, finish=work.finish)
        self._submit(work, CONCLUDE, task, partial(self._written, work))

    def _written(self, work: Work[Item, Made], milliseconds: float, made: Made | Failure) -> None:
        work.times.write_ms = milliseconds
        work.made = made
        with self._changed:
            self._finished.append(work)
            self._changed.notify_all()
