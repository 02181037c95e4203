"""What a process holds, as /proc says: threads, file handles, sockets, resident memory."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Holdings:
    """What one process holds, or the most that any of several does."""

    threads: int
    handles: int
    sockets: int
    memory: int
    """Resident, in bytes."""

    def exceeds(self, other: Holdings, *, handles: int, memory: int) -> bool:
        """Whether this is more than ``other``, beyond so many handles of files and bytes of memory."""
        return (
            self.threads > other.threads
            or self.sockets > other.sockets
            or self.handles > other.handles + handles
            or self.memory > other.memory + memory
        )


def holdings(pids: Iterable[int]) -> Holdings:
    """The most that any of these processes holds."""
    each = [_of_process(pid) for pid in pids]
    return Holdings(
        threads=max(h.threads for h in each),
        handles=max(h.handles for h in each),
        sockets=max(h.sockets for h in each),
        memory=max(h.memory for h in each),
    )


def _of_process(pid: int) -> Holdings:
    process = Path(f"/proc/{pid}")
    links = []
    for handle in (process / "fd").iterdir():
        try:
            links.append(os.readlink(handle))
        except FileNotFoundError:
            continue  # closed meanwhile
    pages = int((process / "statm").read_text().split()[1])
    return Holdings(
        threads=len(list((process / "task").iterdir())),
        handles=len(links),
        sockets=sum(link.startswith("socket:") for link in links),
        memory=pages * os.sysconf("SC_PAGE_SIZE"),
    )
