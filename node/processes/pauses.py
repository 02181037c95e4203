"""How long to wait before a peer or a process is tried again."""

from __future__ import annotations

FIRST_SECONDS = 1.0
CEILING_SECONDS = 600.0


def backoff_seconds(
    attempts: int, jitter: float = 0.0, *, first: float = FIRST_SECONDS, ceiling: float = CEILING_SECONDS
) -> float:
    """Seconds to wait after ``attempts`` failed attempts: doubled each time, at most ten minutes by default.

    ``jitter`` in [0, 1) takes away up to half, so that many nodes do not return to a PACS at one moment.
    """
    full = min(first * 2 ** min(attempts - 1, 20), ceiling)
    return float(full * (1 - jitter / 2))
