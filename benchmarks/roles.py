"""The roles of a node, each started alone and when a benchmark wants it, and what their processes cost."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from db.database import Database, DatabaseSettings
from tests.peers.node import Node
from tests.peers.processes import descendants, processor_seconds, proportional_memory
from tests.peers.waiting import answers, wait_until

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300.0
STOP_SECONDS = 120.0
LOOK_SECONDS = 0.005
"""Short, since a worker works from the moment that it is ready, and that is what is measured."""
SAMPLE_SECONDS = 0.5
"""Looking at the memory of many processes costs the machine milliseconds for each."""
STARTED = {
    "receiver": "receiver_started",
    "ticker": "ticker_started",
    "courier": "courier_started",
    "worker": "worker_ready",
}
"""What a role logs once it works."""


class Roles:
    """Processes of ``serve --role`` for a node's configuration; all end with the context."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Roles:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.started.values():
            process.terminate()
        for process in self.started.values():
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, role: str) -> None:
        """Start a role and wait until it works: a worker has loaded its model."""
        log = self._log(role)
        with log.open("wb") as output:
            process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "node.cli",
                    "serve",
                    "--role",
                    role,
                    "-c",
                    str(self.node.configuration),
                ],
                stdout=output,
                stderr=output,
                cwd=ROOT,
            )
        self.started[role] = process

        deadline = time.monotonic() + START_SECONDS
        while STARTED[role] not in (text := log.read_text()):
            if process.poll() is not None or "model_not_loaded" in text or time.monotonic() > deadline:
                raise RuntimeError(f"the {role} does not start: {text}")
            time.sleep(LOOK_SECONDS)
        if role == "receiver":
            wait_until(lambda: answers(self.node.port), START_SECONDS, "the receiver listens")

    def pids(self) -> dict[str, int]:
        """The process of each role."""
        return {role: process.pid for role, process in self.started.items()}

    def check(self) -> None:
        """Raise RuntimeError where a role has ended: nothing starts it again here."""
        for role, process in self.started.items():
            if process.poll() is not None:
                raise RuntimeError(f"the {role} has ended: {self._log(role).read_text()}")

    @contextmanager
    def database(self) -> Iterator[Database]:
        """The node's database, to look into."""
        database = Database.open(
            DatabaseSettings(url=f"sqlite:///{self.node.data_dir / 'overread.db'}", wait_seconds=60)
        )
        try:
            yield database
        finally:
            database.close()

    def _log(self, role: str) -> Path:
        return self.node.folder / f"{role}.log"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a process and all that it started have cost between two moments.

    ``total`` and ``by_name`` are seconds of processor time. What a process used after it was last looked at is in
    ``total`` alone.
    """

    total: float
    by_name: Mapping[str, float]


class Meter:
    """Looks at processes and their descendants twice a second while its context lasts.

    Args:
        roots: processes by what they are called in the result. They outlive the meter.
        memory_of: those of the roots whose memory is looked at, with their descendants.
    """

    def __init__(self, roots: Mapping[str, int], memory_of: Sequence[str]) -> None:
        self._roots = dict(roots)
        self._memory_of = tuple(memory_of)
        self._names = {pid: name for name, pid in self._roots.items()}
        self._latest: dict[str, dict[int, float]] = {root: {} for root in self._roots}
        """Seconds of each process when it was last looked at, by root."""
        self.costs: dict[str, Cost] = {}
        """By root, once the context has ended."""
        self.largest_memory = 0
        """Largest sum of the proportional memory of the processes that are looked at, in bytes."""
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Meter:
        self._look()
        self._former = {root: dict(seconds) for root, seconds in self._latest.items()}
        self._before = {root: _total(pid) for root, pid in self._roots.items()}
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self._look()
        for root, pid in self._roots.items():
            by_name: dict[str, float] = defaultdict(float)
            for process, seconds in self._latest[root].items():
                by_name[self._names[process]] += seconds - self._former[root].get(process, 0.0)
            self.costs[root] = Cost(total=_total(pid) - self._before[root], by_name=by_name)

    def _watch(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self._look()

    def _look(self) -> None:
        memory = 0
        for root, pid in self._roots.items():
            found = descendants(pid)
            self._names |= {process: name for process, name in found.items() if name}
            for process in (pid, *found):
                own, _ = processor_seconds(process)
                if own and process in self._names:
                    self._latest[root][process] = own
                if root in self._memory_of:
                    memory += proportional_memory(process)
        self.largest_memory = max(self.largest_memory, memory)


def _total(root: int) -> float:
    return sum(sum(processor_seconds(pid)) for pid in (root, *descendants(root)))


def cores() -> int:
    """How many cores this process and those that it starts may use."""
    return len(os.sched_getaffinity(0))
