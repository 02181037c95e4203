"""Limits of a reader process, which is ended when it exceeds one."""

from __future__ import annotations

import os
from dataclasses import dataclass

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class ReaderLimits:
    """Limits of reading.

    ``memory_bytes`` is the address space of one reader process (RLIMIT_AS); its libraries take about half a gigabyte
    of it. ``seconds`` is the time for one file, or for one frame of a multi-frame file. ``processes`` is the largest
    number of readers.
    """

    memory_bytes: int = 4 * GIGABYTE
    seconds: float = 60.0
    processes: int = max(1, min(4, os.cpu_count() or 1))

    @property
    def memory(self) -> str:
        """The memory limit as text, in GB."""
        return f"{self.memory_bytes / GIGABYTE:g} GB"
