"""Stage processes, from the worker's side: forked, given tasks, and ended if they die or take too long."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from inference.engine import Engine, StagedEngine
from node.line import transport
from node.line.stage_child import Request, StageSettings
from node.line.tasks import Task
from node.line.template import FORK, NUMBER, STILL_RUNS, WAIT

log = logging.getLogger("overread.line")

START_SECONDS = 120.0
"""For the template to load the libraries."""
END_SECONDS = 10.0

_ROOT = Path(__file__).resolve().parents[2]


class StageFailed(Exception):
    """A stage process ended, or was ended because it took too long; the message says which."""


class Template:
    """The process that stage processes are forked from. Thread-safe.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, settings: StageSettings) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(START_SECONDS)
        paths = [str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "node.line.template", str(theirs.fileno()), *settings.modules],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            )

    @property
    def usable(self) -> bool:
        """Whether it can be forked."""
        return self._process.poll() is None

    def fork(self) -> tuple[int, socket.socket]:
        """Start a stage process; gives its process ID and the channel to it.

        Raises:
            OSError: the template has ended or does not answer.
        """
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                socket.send_fds(self._channel, [FORK], [theirs.fileno()])
                return self._number(), ours
            except OSError:
                ours.close()
                raise

    def exit_code(self, pid: int) -> int | None:
        """The exit code of a stage process that has ended, negative for a signal; None if that cannot be known."""
        with self._lock:
            try:
                self._channel.sendall(WAIT + NUMBER.pack(pid))
                code = self._number()
            except OSError:  # the template has ended too
                return None
        return None if code == STILL_RUNS else code

    def end(self) -> None:
        """End it, and with it the stage processes that are left."""
        self._channel.close()
        self._process.kill()
        self._process.wait()

    def _number(self) -> int:
        data = self._channel.recv(NUMBER.size, socket.MSG_WAITALL)
        if len(data) < NUMBER.size:
            raise ConnectionError("the template of the stage processes has ended")
        number: int = NUMBER.unpack(data)[0]
        return number


class StageProcess:
    """A process that does one task at a time. Not thread-safe.

    Raises:
        OSError: the process cannot be started.
    """

    def __init__(self, template: Template) -> None:
        self._template = template
        self._engines: dict[str, int] = {}
        self.pid, self._channel = template.fork()
        transport.send(self._channel, template.settings)

    @property
    def usable(self) -> bool:
        """Whether it can do another task."""
        if self._channel.fileno() < 0:
            return False
        self._channel.setblocking(False)
        try:
            return self._channel.recv(1, socket.MSG_PEEK) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

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
        self._end()

    def _end(self) -> int | None:
        if self._channel.fileno() < 0:
            return None
        self._channel.close()
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:  # its template has ended, and it with it
            return None
        return self._template.exit_code(self.pid)

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
        status = self._end()
        if status is None:
            return "with the process that it was forked from"
        if status == -signal.SIGKILL:
            return "SIGKILL, as when memory runs out"
        return signal.Signals(-status).name if status < 0 else f"status {status}"
