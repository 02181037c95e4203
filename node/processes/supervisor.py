"""The supervisor: starts one process for each role, restarts what dies and stops them all on SIGTERM.

A new configuration replaces all of them. Receivers share their port, so the former ones go only when the new ones
listen: no modality is refused meanwhile.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from db.retry import PROCESS
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.errors import ConfigurationError
from node.processes.engine_keywords import engine_keywords
from node.processes.libraries import Role
from node.processes.process import STOP_SECONDS, configure_log
from node.processes.serving import worker_groups

log = logging.getLogger("overread.supervisor")

SUPERVISOR = "supervisor"
"""What the log calls this process."""
LOOK_SECONDS = 0.2
STEADY_SECONDS = 60.0
"""A process that ran this long is restarted at once when it dies."""
OVERLAP_SECONDS = 60.0
"""Former receivers do not wait longer than this for the new ones."""


@dataclass(kw_only=True)
class Child:
    """One role's process, and when it may be started again."""

    role: Role
    number: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    failures: int = field(default=0)
    ready: int | None = None
    """Where a receiver says that it listens: a pipe, until it has."""

    def listens(self) -> bool:
        """Whether a receiver has said so."""
        # Where it could not listen, the pipe ends without a word.
        if self.ready is not None and select.select([self.ready], [], [], 0)[0] and os.read(self.ready, 1):
            self.forget_pipe()
        return self.process is not None and self.ready is None

    def forget_pipe(self) -> None:
        """Close the pipe."""
        if self.ready is not None:
            os.close(self.ready)
            self.ready = None


class Supervisor:
    """Keeps the processes of a node running."""

    def __init__(self, configuration: Configuration, lock: int) -> None:
        """``lock`` is the descriptor that holds the data folder; every process keeps it."""
        self._lock = lock
        self._leaving: list[Child] = []
        """Receivers of the former configuration."""
        self._leave_at = 0.0
        self._take(configuration)

    def _take(self, configuration: Configuration) -> None:
        self.configuration = configuration
        self.keywords = sorted(engine_keywords([engine.kind for engine in configuration.engine]))
        self.children = [Child(role=Role.RECEIVER, number=n) for n in range(configuration.node.receivers)]
        self.children += [Child(role=Role.WORKER, number=n) for n in range(len(worker_groups(configuration)))]
        self.children += [Child(role=Role.COURIER, number=0), Child(role=Role.TICKER, number=0)]
        if configuration.web.enabled:
            self.children.append(Child(role=Role.WEB, number=0))

    def serve(self, stop: threading.Event, reload: threading.Event) -> None:
        """Run until ``stop`` is set, then stop every process within a deadline; ``reload`` reads the file again."""
        try:
            while not stop.is_set():
                if reload.is_set():
                    reload.clear()
                    self._reload()
                for child in self.children:
                    self._look_after(child)
                self._see_off()
                stop.wait(LOOK_SECONDS)
        finally:
            self._stop([*self.children, *self._leaving])
            log.info("processes_stopped")

    def _reload(self) -> None:
        """Run with the configuration file as it is now, unless anything in it is wrong."""
        try:
            configuration = load(self.configuration.file)
        except ConfigurationError as error:
            log.error("configuration_refused reason=%s", error)
            return
        if configuration.data_dir != self.configuration.data_dir:
            log.error("configuration_refused reason=node.data_dir needs a new start")
            return
        configure_log(SUPERVISOR, configuration.log.format)
        log.info("configuration_reloaded")
        receivers = [child for child in self.children if child.role is Role.RECEIVER]
        others = [child for child in self.children if child.role is not Role.RECEIVER]
        self._stop([*self._leaving, *others])
        self._take(configuration)
        self._leaving = [child for child in receivers if child.process is not None]
        self._leave_at = time.monotonic() + OVERLAP_SECONDS

    def _see_off(self) -> None:
        """Stop former receivers once all new ones listen."""
        if not self._leaving:
            return
        listening = all(child.listens() for child in self.children if child.role is Role.RECEIVER)
        if listening or time.monotonic() >= self._leave_at:
            self._stop(self._leaving)
            self._leaving = []
            log.info("receivers_replaced")

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now < child.start_after:
                return
            child.started_at = now
            try:
                child.process = self._start(child)
            except OSError as error:
                self._start_later(child, now, f"not started: {error.strerror}")
            return
        status = child.process.poll()
        if status is not None:
            child.process = None
            child.forget_pipe()
            self._start_later(child, now, f"status {status}")

    @staticmethod
    def _start_later(child: Child, now: float, what: str) -> None:
        child.failures = 0 if now - child.started_at >= STEADY_SECONDS else child.failures + 1
        pause = PROCESS.pause(child.failures - 1) if child.failures > 1 else 0.0
        log.error(
            "process_died role=%s number=%d reason=%s restart_in=%.1f", child.role, child.number, what, pause
        )
        child.start_after = now + pause

    def _start(self, child: Child) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "node.processes.child", str(self.configuration.file)]
        command += ["--role", child.role.value, "--number", str(child.number), "--parent", str(os.getpid())]
        if child.role is not Role.RECEIVER:
            return subprocess.Popen(command, pass_fds=[self._lock])
        child.ready, ours = os.pipe()
        try:
            command += ["--ready", str(ours), "--keywords", *self.keywords]
            return subprocess.Popen(command, pass_fds=[self._lock, ours])
        except OSError:
            child.forget_pipe()
            raise
        finally:
            os.close(ours)

    @staticmethod
    def _stop(children: Sequence[Child]) -> None:
        running = [child for child in children if child.process is not None]
        for child in running:
            if child.process is not None:
                child.process.terminate()
        deadline = time.monotonic() + STOP_SECONDS
        for child in running:
            if child.process is None:
                continue
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                log.error("process_killed role=%s number=%d", child.role, child.number)
                child.process.kill()
                child.process.wait()
            child.forget_pipe()
