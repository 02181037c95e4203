"""The pool of stage processes: errands by priority, done in lanes that have a process each.

Lanes start when there is more to do than they can, and end when they have been idle for a while.
"""

from __future__ import annotations

import heapq
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from inference.engine import Engine, StagedEngine
from node.line.stage_child import StageSettings
from node.line.stage_process import StageFailed, StageProcess, Template
from node.line.tasks import Prepare, Task

log = logging.getLogger("overread.line")

IDLE_SECONDS = 60.0
"""A lane that had nothing to do for this long ends, but for the last one."""


@dataclass(order=True, kw_only=True)
class Errand:
    """A task on its way to a lane. When it is over, one of the last two is called in the lane's thread."""

    order: tuple[int, ...]
    """The smallest goes first; no two are equal."""
    task: Task = field(compare=False)
    engine: Engine = field(compare=False)
    deadline_seconds: float = field(compare=False)
    started: Callable[[], None] = field(compare=False)
    done: Callable[[Any], None] = field(compare=False)
    """Gets the task's result."""
    failed: Callable[[str], None] = field(compare=False)
    """Gets what happened, as the end of a sentence about the process."""


class StagePool:
    """Does errands, the first by ``order`` first."""

    def __init__(self, lanes: int, settings: StageSettings | None) -> None:
        """Make a pool.

        Args:
            lanes: the most errands at once.
            settings: of the stage processes. None: the lanes do the tasks themselves, in this process.
        """
        self._most = max(1, lanes)
        self._settings = settings
        self._template: Template | None = None
        self._starting = threading.Lock()
        self._waiting: list[Errand] = []
        self._changed = threading.Condition()
        self._lanes = self._idle = 0
        self._closed = False
        self._spare: StageProcess | None = None

    def warm(self) -> None:
        """Have one stage process with a reader ready, so that the first input does not wait for them.

        Raises:
            OSError: no process can be started.
        """
        if self._settings is not None:
            process = self._start(self._settings)
            try:
                process.warm()
            except StageFailed as error:
                raise OSError(f"the stage process {error}") from error
            self._spare = process

    def submit(self, errand: Errand) -> None:
        """Do an errand as soon as a lane is free."""
        with self._changed:
            heapq.heappush(self._waiting, errand)
            if self._idle < len(self._waiting) and self._lanes < self._most:
                self._lanes += 1
                threading.Thread(target=self._serve, name="lane", daemon=True).start()
            self._changed.notify()

    def close(self) -> None:
        """End the lanes and their processes; what is not done yet is given up."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
            spare, self._spare = self._spare, None
        with self._starting:
            template, self._template = self._template, None
        if spare is not None:
            spare.end()
        if template is not None:
            template.end()

    def _start(self, settings: StageSettings) -> StageProcess:
        with self._starting:
            if self._closed:
                raise StageFailed("ends with the worker")
            if self._template is None or not self._template.usable:
                self._template = Template(settings)
            return StageProcess(self._template)

    def _serve(self) -> None:
        with self._changed:
            process, self._spare = self._spare, None
        try:
            while (errand := self._next()) is not None:
                if process is not None and not process.usable:
                    process.end()  # it died while idle, so no input is to blame
                    process = None
                process = self._do(errand, process)
        finally:
            if process is not None:
                process.end()

    def _next(self) -> Errand | None:
        """The next errand; None if the lane must end."""
        with self._changed:
            self._idle += 1
            try:
                while not self._closed:
                    if self._waiting:
                        return heapq.heappop(self._waiting)
                    if not self._changed.wait(IDLE_SECONDS) and not self._waiting and self._lanes > 1:
                        break
                self._lanes -= 1
                return None
            finally:
                self._idle -= 1

    def _do(self, errand: Errand, process: StageProcess | None) -> StageProcess | None:
        """Do an errand; gives the lane's process."""
        errand.started()
        # Engines that cannot be divided prepare where they were loaded.
        here = isinstance(errand.task, Prepare) and not isinstance(errand.engine, StagedEngine)
        try:
            if here or self._settings is None:
                result = errand.task(errand.engine)
            else:
                process = process or self._start(self._settings)
                result = process.run(errand.task, errand.engine, errand.deadline_seconds)
        except StageFailed as error:
            errand.failed(str(error))
        except Exception as error:
            # A fault of this program must not end the lane: everything behind it would wait for ever.
            log.exception("stage_failed engine=%s", errand.engine.settings.name)
            errand.failed(f"failed ({type(error).__name__})")
        else:
            errand.done(result)
        return process
