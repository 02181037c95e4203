"""Whose turn it is: start-time fair queueing over the flows of jobs, within each priority.

A flow is an engine's jobs of one source and rule. Each flow has a moment in virtual time at which its next job starts.
The flow with the earliest moment is served, and its moment moves on by the job's cost divided by its weight. A flow
that had nothing to do starts at the present of virtual time: it does not save up turns.

References: P. Goyal, H. M. Vin, H. Cheng, "Start-time Fair Queuing", IEEE/ACM Transactions on Networking 5(5), 1997.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping

Flow = tuple[str, str]
"""The engine and the ``flow`` column of jobs."""

SECONDS_PER_BYTE = 2e-8
"""What an engine is taken to need before it was measured: 40 ms for a radiograph of 2 MB."""
LEAST_SECONDS = 0.001
"""The least cost of a job: reading it and writing its report is never free."""
MEMORY = 0.9
"""What an engine's earlier work counts for with each new measurement: the last ten or so decide."""


class Turns:
    """The turns of one process. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._present: dict[int, float] = {}
        self._starts: dict[int, dict[Flow, float]] = {}
        self._work: dict[str, tuple[float, float]] = {}

    def start(self, priority: int, flow: Flow) -> float:
        """The virtual time at which the next job of a flow starts."""
        with self._lock:
            return max(self._present.get(priority, 0.0), self._starts.get(priority, {}).get(flow, 0.0))

    def cost(self, engine: str, input_bytes: int) -> float:
        """What a job is expected to cost, in seconds: its bytes times what its engine needed for a byte."""
        with self._lock:
            seconds, of_bytes = self._work.get(engine, (SECONDS_PER_BYTE, 1.0))
        return max(LEAST_SECONDS, seconds / of_bytes * input_bytes)

    def serve(self, priority: int, present: float, starts: Mapping[Flow, float]) -> None:
        """Move on after jobs of a priority were claimed.

        Args:
            priority: their priority.
            present: the start of the first of them, which was the earliest of all.
            starts: when the next job of each flow that was served starts.
        """
        with self._lock:
            kept = {**self._starts.get(priority, {}), **starts}
            self._present[priority] = present
            # A flow that is behind the present starts there anyway.
            self._starts[priority] = {flow: start for flow, start in kept.items() if start > present}

    def measured(self, engine: str, input_bytes: int, seconds: float) -> None:
        """Take into account how long an engine needed for inputs of so many bytes."""
        if input_bytes <= 0:
            return
        with self._lock:
            former_seconds, former_bytes = self._work.get(engine, (0.0, 0.0))
            self._work[engine] = (MEMORY * former_seconds + seconds, MEMORY * former_bytes + input_bytes)

    def nothing_waits(self, engines: Collection[str]) -> None:
        """Begin anew if no job of these engines waits, and no other engine had turns: nobody is ahead of anybody."""
        with self._lock:
            known = {engine for starts in self._starts.values() for engine, _ in starts}
            if known.issubset(engines):
                self._present.clear()
                self._starts.clear()
