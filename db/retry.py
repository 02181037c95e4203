"""Retry policies: how long to wait before something is tried again.

They are all here because every room that retries may import ``db``.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

MAX_EXPONENT = 64
"""The exponent's limit, against overflow: every policy reaches its ceiling long before."""


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """Pauses in seconds: the first, the factor by which each next one is longer, and the ceiling."""

    first: float
    factor: float = 2.0
    ceiling: float
    jitter: float = 0.0
    """Each pause is shortened at random by up to this share (0 to 1), so that nodes do not all return at one moment."""

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the ``attempt``-th failure in a row, counted from 1."""
        full = min(self.first * self.factor ** min(max(attempt, 1) - 1, MAX_EXPONENT), self.ceiling)
        return full * (1.0 - self.jitter * random.random())  # noqa: S311 - spreads retries, no secret


DELIVERY = RetryPolicy(first=1.0, ceiling=600.0, jitter=0.5)
"""For a result, or a report of storage commitment, that did not arrive."""
DESTINATION = RetryPolicy(first=1.0, ceiling=30.0, jitter=0.5)
"""For a destination that cannot be reached. New results wait as well."""
ASSOCIATION = RetryPolicy(first=30.0, ceiling=600.0)
"""For a destination that grants no further association beside the one that there is."""
COMMITMENT = RetryPolicy(first=60.0, ceiling=3600.0)
"""For a destination that was asked for storage commitment and has not answered."""
DISK = RetryPolicy(first=5.0, factor=6.0, ceiling=1080.0)
"""For a job whose files cannot be read or written: after 5, 30, 180 and 1080 seconds, to outlast an outage."""
ENGINE = RetryPolicy(first=5.0, factor=1.0, ceiling=5.0)
"""For a job that its engine could not run now."""
PROCESS = RetryPolicy(first=0.5, ceiling=30.0)
"""For a process of the node that dies soon after its start."""
SYSLOG = RetryPolicy(first=1.0, ceiling=60.0)
"""For a syslog server that does not answer."""
REJECTION = RetryPolicy(first=0.25, ceiling=4.0)
"""How long a peer that is rejected again and again waits for each rejection."""
