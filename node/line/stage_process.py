"""One stage process, from the worker's side: started, given tasks, and ended if it dies or takes too long."""

from __future__ import annotations

import atexit
import logging
import multiprocessing
import signal
import socket
import threading
import time
import weakref
from multiprocessing.context import ForkServerProcess
from typing import Any

from inference.engine import Engine, StagedEngine
from node.line import transport
from node.line.stage_child import Request, StageSettings, serve
from node.line.tasks import Task

log = logging.getLogger("overread.line")

LIBRARIES = [
    "node.line.stage_child",
    "node.line.preloaded",
]
"""What the process that stage processes are forked from loads."""

START_SECONDS = 120.0
END_SECONDS = 10.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)
_starting = threading.Lock()
_alive: weakref.WeakSet[StageProcess] = weakref.WeakSet()


class StageFailed(Exception):
    """A stage process ended, or was ended because it took too long; the message says which."""


class StageProcess:
    """A process that does one task at a time. Not thread-safe.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, settings: StageSettings) -> None:
        ours, theirs = socket.socketpair()
        self._channel = ours
        self._engines: dict[str, int] = {}
        self._process = ForkServerProcess(target=serve, args=(theirs, settings), daemon=True)
        try:
            with _starting:
                self._process.start()
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        _alive.add(self)
        ours.settimeout(START_SECONDS)
        try:
            self.pid: int = transport.receive(ours)
        except (TimeoutError, transport.ChannelClosed) as error:
            self.end()
            raise OSError("the stage process does not start") from error

    @property
    def usable(self) -> bool:
        """Whether it can do another task."""
        return self._channel.fileno() >= 0 and self._process.is_alive()

    def warm(self) -> None:
        """Have its reader process ready, so that the first file does not wait for it; raises like :meth:`run`."""
        self._ask(Request(engine="", copy=None, task=None), START_SECONDS)

    def run(self, task: Task, engine: Engine, deadline_seconds: float) -> Any:
        """Do a task.

        Raises:
            StageFailed: the process ended or took longer than ``deadline_seconds``; it is gone now.
            RuntimeError: the task failed; the process goes on.
        """
        name = engine.settings.name
        copy = None
        if isinstance(engine, StagedEngine) and self._engines.get(name) != id(engine):
            copy = engine.without_networks()
        answer = self._ask(Request(engine=name, copy=copy, task=task), deadline_seconds)
        self._engines[name] = id(engine)
        if answer.error is not None:
            raise RuntimeError(answer.error)
        return answer.value

    def end(self) -> None:
        """Kill the process and wait until it is gone."""
        self._channel.close()
        self._process.kill()
        self._process.join(END_SECONDS)

    def _ask(self, request: Request, seconds: float) -> Any:
        started = time.monotonic()
        self._channel.settimeout(seconds)
        try:
            transport.send(self._channel, request)
            return transport.receive(self._channel)
        except TimeoutError:
            self.end()
            log.error("stage_process_hangs pid=%d seconds=%.0f", self.pid, time.monotonic() - started)
            raise StageFailed(f"took longer than {seconds:g} seconds") from None
        except (transport.ChannelClosed, BrokenPipeError):
            reason = self._exit_reason()
            log.error("stage_process_died pid=%d status=%s", self.pid, reason)
            raise StageFailed(f"ended ({reason})") from None

    def _exit_reason(self) -> str:
        self._process.join(END_SECONDS)
        status = self._process.exitcode
        self.end()
        if status is None:
            return "it closed its channel"
        if status == -signal.SIGKILL:
            return "SIGKILL, as when memory runs out"
        return signal.Signals(-status).name if status < 0 else f"status {status}"


@atexit.register
def _end_all() -> None:
    """End the processes that are left, since multiprocessing would wait for them with a signal that they ignore."""
    for process in list(_alive):
        process.end()
