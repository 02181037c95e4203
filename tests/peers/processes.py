"""What /proc says of processes: what one holds, which ones it started and what they are called, what they cost."""

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


TEMPLATE = "node.line.template"
"""The name of the process that a worker's stage processes are forked from."""
STAGE = "stage"
"""The name of a stage process."""
TICKS = os.sysconf("SC_CLK_TCK")
"""The kernel counts processor time in so many parts of a second."""
_ENDED = (FileNotFoundError, ProcessLookupError)
"""What reading about a process raises once it has ended."""


def descendants(pid: int) -> dict[int, str]:
    """The processes that this one has started, and those that they have, with their names (``name_of``)."""
    return _descendants(pid, name_of(pid))


def stages_of(worker: int) -> list[int]:
    """The stage processes of a worker, by number; their readers are ``descendants`` of each."""
    return sorted(pid for pid, name in descendants(worker).items() if name == STAGE)


def _descendants(pid: int, name: str) -> dict[int, str]:
    found: dict[int, str] = {}
    for child in _children(pid):
        own = name_of(child)
        # A fork of the template has its command line.
        named = STAGE if own == name == TEMPLATE else own
        found |= {child: named} | _descendants(child, named)
    return found


def name_of(pid: int) -> str:
    """What a process is: the name that it gave itself, its role in a node, or the module that it runs.

    Empty once it has ended.
    """
    process = Path(f"/proc/{pid}")
    try:
        name = (process / "comm").read_text().strip()
        words = (process / "cmdline").read_text().split("\0")
    except _ENDED:
        return ""
    if not name.startswith("python"):
        return name
    for option in ("--role", "-m"):
        if option in words:
            return words[words.index(option) + 1]
    return name


def processor_seconds(pid: int) -> tuple[float, float]:
    """Seconds of processor time of a process itself, and of those that it started and that have ended.

    Both are 0 once it has ended: then they belong to the second figure of the process that started it (proc(5)).
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except _ENDED:
        return 0.0, 0.0
    # The name, in parentheses, may have spaces; utime, stime, cutime and cstime are the fields 14 to 17.
    own, system, ended, ended_system = map(int, stat.rpartition(")")[2].split()[11:15])
    return (own + system) / TICKS, (ended + ended_system) / TICKS


def proportional_memory(pid: int) -> int:
    """Resident memory of a process in bytes, with its share of what it has in common with others (PSS of proc(5))."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except _ENDED:
        return 0
    return 1024 * int(text.split("Pss:")[1].split()[0])


def _children(pid: int) -> list[int]:
    """Those of all its threads: each has a list of its own."""
    found: list[int] = []
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except _ENDED:
        return found
    for thread in threads:
        try:
            found += map(int, (thread / "children").read_text().split())
        except _ENDED:
            continue
    return found
