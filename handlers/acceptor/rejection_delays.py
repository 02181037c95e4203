"""Peers that are rejected again and again wait longer each time, so that guessing AE titles takes for ever."""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict

from db.retry import REJECTION

FORGIVEN_SECONDS = 300.0
WAITING = 8
"""Most peers of one address that wait for their answer; further ones get none, so that they fill no places."""
ADDRESSES = 4096
"""Most addresses that are remembered; the longest silent one goes first."""


class RejectionDelays:
    """Counts rejections by address. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: Counter[str] = Counter()
        self._seen: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def wait(self, address: str, stopping: threading.Event) -> bool:
        """Count a rejection and wait before it is sent; False where it is better not sent at all."""
        seconds = self.count(address)
        with self._lock:
            if self._waiting[address] >= WAITING:
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
        """Count a rejection; how many seconds to wait before it is sent."""
        now = time.monotonic()
        with self._lock:
            count, at = self._seen.pop(address, (0, now))
            count = 0 if now - at > FORGIVEN_SECONDS else count
            self._seen[address] = (count + 1, now)
            while len(self._seen) > ADDRESSES:
                self._seen.popitem(last=False)
        return 0.0 if count == 0 else REJECTION.pause(count)
