"""What a reader process may use before it is ended."""

from __future__ import annotations

import os
from dataclasses import dataclass

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, kw_only=True)
class ReaderLimits:
    """Limits of reading one file.

    ``memory_bytes`` is the address space of a reader process (RLIMIT_AS), of which its libraries need about
    half a gigabyte. ``seconds`` is the time for one file, or for one frame of a file with several.
    ``processes`` is how many readers there are at most.
    """

    memory_bytes: int = 4 * GIGABYTE
    seconds: float = 60.0
    processes: int = max(1, min(4, os.cpu_count() or 1))

    @property
    def memory(self) -> str:
        """The memory for a person."""
        return f"{self.memory_bytes / GIGABYTE:g} GB"
