"""How long to wait before something is tried again: one kind of value, and every policy of the house.

It is here because every room that waits may import ``db``: the database itself, the network and the node.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

STEPS = 64
"""Pauses no longer grow after this many attempts; all have reached their ceiling long before."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Pauses that grow by a factor up to a ceiling, in seconds."""

    first: float
    factor: float = 2.0
    ceiling: float
    jitter: float = 0.0
    """The share of a pause that chance may take away, so that many nodes do not return to a peer at one moment."""

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th failure in a row, counted from 1."""
        full = min(self.first * self.factor ** min(max(attempt, 1) - 1, STEPS), self.ceiling)
        return full * (1.0 - self.jitter * random.random())  # noqa: S311 - spreads retries, no secret


DELIVERY = RetryPolicy(first=1.0, ceiling=600.0, jitter=0.5)
"""A result that did not arrive, and a report of storage commitment that a peer did not take."""
DESTINATION = RetryPolicy(first=1.0, ceiling=30.0, jitter=0.5)
"""A destination that cannot be reached: it is left alone, also by new results."""
COMMITMENT = RetryPolicy(first=60.0, ceiling=3600.0)
"""A destination that was asked for storage commitment and has not reported."""
DISK = RetryPolicy(first=5.0, factor=6.0, ceiling=1080.0)
"""A job whose files cannot be read or written: 5, 30, 180, 1080 seconds, so that it outlasts an outage."""
ENGINE = RetryPolicy(first=5.0, factor=1.0, ceiling=5.0)
"""A job whose engine could not run it now."""
PROCESS = RetryPolicy(first=0.5, ceiling=30.0)
"""A process of the node that dies as soon as it is started."""
SYSLOG = RetryPolicy(first=1.0, ceiling=60.0)
"""A syslog server that does not answer."""
REJECTION = RetryPolicy(first=0.25, ceiling=4.0)
"""A peer that is turned away again and again waits this long for its answer."""
