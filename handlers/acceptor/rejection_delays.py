"""Growing delays before repeated rejections, so that AE titles cannot be guessed in reasonable time."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict

from db.retry import REJECTION

FORGET_SECONDS = 300.0
"""The count of an address starts again after this long without a rejection."""
MAXIMUM_WAITING = 8
"""Most connections of one address that wait for a rejection; more are closed, so that they hold no threads."""
MAXIMUM_ADDRESSES = 4096
"""Most addresses remembered; the one whose last rejection is oldest is dropped first."""


class RejectionDelays:
    """Counts rejections by address. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str, stopping: threading.Event) -> bool:
        """Count a rejection and wait; False if too many of this address wait already and none should be sent.

        The wait ends early when ``stopping`` is set.
        """
        seconds = self.count(address)
        with self._lock:
            if self._waiting[address] >= MAXIMUM_WAITING:
                return False
            self._waiting[address] += 1
        try:
            stopping.wait(seconds)
        finally:
            with self._lock:
                self._waiting[address] -= 1
                if not self._waiting[address]:
                    del self._waiting[address]
        return True

    def count(self, address: str) -> float:
        """Count a rejection and return how many seconds to wait before sending it."""
        now = time.monotonic()
        with self._lock:
            count, at = self._seen.pop(address, (0, now))
            count = 0 if now - at > FORGET_SECONDS else count
            self._seen[address] = (count + 1, now)
            while len(self._seen) > MAXIMUM_ADDRESSES:
                self._seen.popitem(last=False)
        return 0.0 if count == 0 else REJECTION.pause(count)
