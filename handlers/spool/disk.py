"""The watermark: whether the spool's disk still has the room that is kept free."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

log = logging.getLogger("overread.disk")

LOOK_SECONDS = 1.0


class DiskWatch:
    """Looks at most every ``LOOK_SECONDS``. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._looked_at = float("-inf")
        self._full = False

    def full(self) -> bool:
        """Whether less than the reserve is free.

        Raises:
            OSError: the disk does not answer.
        """
        with self._lock:
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                free = free_bytes(self.folder)
                full = free < self.reserve_bytes
                if full and not self._full:
                    log.error("disk_nearly_full free=%d reserve=%d", free, self.reserve_bytes)
                elif self._full and not full:
                    log.warning("disk_has_room_again free=%d reserve=%d", free, self.reserve_bytes)
                self._full = full
                self._looked_at = time.monotonic()
            return self._full


def free_bytes(folder: Path) -> int:
    """Bytes that this process may still write on a folder's disk."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
