"""Free space on the spool's disk, compared with the reserve that must stay free."""

from __future__ import annotations

import logging
import os
import threading
import time
from pathlib import Path

log = logging.getLogger("overread.disk")

CHECK_SECONDS = 1.0


class DiskWatch:
    """Compares free space with the reserve, at most once per ``CHECK_SECONDS``. Thread-safe."""

    def __init__(self, folder: Path, reserve_bytes: int) -> None:
        self.folder = folder
        self.reserve_bytes = reserve_bytes
        self._lock = threading.Lock()
        self._checked_at = float("-inf")
        self._full = False

    def full(self) -> bool:
        """Whether less than the reserve is free; the answer is up to ``CHECK_SECONDS`` old.

        Raises:
            OSError: the disk does not answer.
        """
        with self._lock:
            if time.monotonic() - self._checked_at >= CHECK_SECONDS:
                free = free_bytes(self.folder)
                full = free < self.reserve_bytes
                if full and not self._full:
                    log.error("disk_nearly_full free=%d reserve=%d", free, self.reserve_bytes)
                elif self._full and not full:
                    log.warning("disk_has_room_again free=%d reserve=%d", free, self.reserve_bytes)
                self._full = full
                self._checked_at = time.monotonic()
            return self._full


def free_bytes(folder: Path) -> int:
    """Bytes that an unprivileged process can still write to a folder's disk."""
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize
