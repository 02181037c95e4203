"""How long to wait before a peer is tried again."""

from __future__ import annotations

FIRST_SECONDS = 1.0
CEILING_SECONDS = 600.0


def backoff_seconds(attempts: int, jitter: float) -> float:
    """Seconds to wait after ``attempts`` failed attempts: doubled each time, at most ten minutes.

    ``jitter`` in [0, 1) takes away up to half, so that many nodes do not return to a PACS at one moment.
    """
    full = min(FIRST_SECONDS * 2 ** min(attempts - 1, 20), CEILING_SECONDS)
    return float(full * (1 - jitter / 2))
