"""The supervisor: starts the processes of all roles, restarts those that die, and stops them all on SIGTERM.

A new configuration replaces all of them. Receivers share their port, so the old ones stop only when the new ones
listen, and no modality is refused meanwhile.
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
from node.log import configure_log
from node.processes.engine_keywords import engine_keywords
from node.processes.libraries import Role
from node.processes.process import STOP_SECONDS
from node.processes.serving import worker_groups

log = logging.getLogger("overread.supervisor")

SUPERVISOR = "supervisor"
"""The name of this process in the log."""
POLL_SECONDS = 0.2
STEADY_SECONDS = 60.0
"""A process that ran at least this long is restarted at once."""
OVERLAP_SECONDS = 60.0
"""Old receivers stop after this time even if the new ones do not listen."""


@dataclass(kw_only=True)
class Child:
    """One process of a role, and when it may be restarted."""

    role: Role
    number: int
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_after: float = 0.0
    failures: int = field(default=0)
    ready: int | None = None
    """The pipe on which a new receiver says that it listens; None once it has."""

    def listens(self) -> bool:
        """Whether this receiver accepts associations."""
        # If it could not listen, the pipe is closed and empty.
        if self.ready is not None and select.select([self.ready], [], [], 0)[0] and os.read(self.ready, 1):
            self.forget_pipe()
        return self.process is not None and self.ready is None

    def forget_pipe(self) -> None:
        """Close the pipe, if there is one."""
        if self.ready is not None:
            os.close(self.ready)
            self.ready = None


class Supervisor:
    """Keeps the processes of a node running.

    ``lock`` is the descriptor of the lock on the data folder; every process inherits it.
    """

    def __init__(self, configuration: Configuration, lock: int) -> None:
        self._lock = lock
        self._old_receivers: list[Child] = []
        """Receivers of the previous configuration."""
        self._overlap_ends_at = 0.0
        self._adopt(configuration)

    def _adopt(self, configuration: Configuration) -> None:
        """List the processes that a configuration needs; they start at the next poll."""
        self.configuration = configuration
        self.keywords = sorted(engine_keywords([engine.kind for engine in configuration.engine]))
        self.children = [Child(role=Role.RECEIVER, number=n) for n in range(configuration.node.receivers)]
        self.children += [Child(role=Role.WORKER, number=n) for n in range(len(worker_groups(configuration)))]
        self.children += [Child(role=Role.COURIER, number=0), Child(role=Role.TICKER, number=0)]
        if configuration.web.enabled:
            self.children.append(Child(role=Role.WEB, number=0))

    def serve(self, stop: threading.Event, reload: threading.Event) -> None:
        """Run until ``stop`` is set, then stop every process. When ``reload`` is set, read the configuration again."""
        try:
            while not stop.is_set():
                if reload.is_set():
                    reload.clear()
                    self._reload()
                for child in self.children:
                    self._keep_running(child)
                self._stop_old_receivers()
                stop.wait(POLL_SECONDS)
        finally:
            self._stop([*self.children, *self._old_receivers])
            log.info("processes_stopped")

    def _reload(self) -> None:
        """Read the configuration file again and use it, unless it has faults."""
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
        self._stop([*self._old_receivers, *others])
        self._adopt(configuration)
        self._old_receivers = [child for child in receivers if child.process is not None]
        self._overlap_ends_at = time.monotonic() + OVERLAP_SECONDS

    def _stop_old_receivers(self) -> None:
        """Stop the old receivers once all new ones listen."""
        if not self._old_receivers:
            return
        listening = all(child.listens() for child in self.children if child.role is Role.RECEIVER)
        if listening or time.monotonic() >= self._overlap_ends_at:
            self._stop(self._old_receivers)
            self._old_receivers = []
            log.info("receivers_replaced")

    def _keep_running(self, child: Child) -> None:
        """Start a process that is due, and note one that died."""
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
    def _start_later(child: Child, now: float, reason: str) -> None:
        child.failures = 0 if now - child.started_at >= STEADY_SECONDS else child.failures + 1
        pause = PROCESS.pause(child.failures - 1) if child.failures > 1 else 0.0
        log.error(
            "process_died role=%s number=%d reason=%s restart_in=%.1f",
            child.role,
            child.number,
            reason,
            pause,
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
