"""Cuts the power at the points of a recording, starts from what is left and lets a test look at it."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.power.disk import Disk, State
from tests.power.trace import FolderMade, Opened, Operation, Said, SyncBegun, SyncEnded, Written

MEMORY = Path("/dev/shm")
"""A disk of memory, where there is one, makes the many states cheap; what is tested are their contents."""


class Sandbox:
    """A folder that is brought from one state of the disk to the next."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._present: dict[str, bytes] = {}

    def put(self, state: State) -> None:
        """Make the folder hold exactly this."""
        files, folders = _walk(self.folder)
        for path in files:
            if state.get(path) is None or ".db" in path:
                (self.folder / path).unlink()
                self._present.pop(path, None)
        for path in sorted(folders, reverse=True):
            if path not in state:
                (self.folder / path).rmdir()
        for path in sorted(path for path, content in state.items() if content is None):
            if path not in folders:
                (self.folder / path).mkdir()
        for path, content in state.items():
            if content is None:
                continue
            if path not in files or self._present.get(path) != content:
                (self.folder / path).write_bytes(content)
                self._present[path] = content


def _walk(root: Path) -> tuple[set[str], set[str]]:
    """Paths of files and folders below a folder, relative to it."""
    files: set[str] = set()
    folders: set[str] = set()
    waiting = [""]
    while waiting:
        prefix = waiting.pop()
        with os.scandir(root / prefix) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.add(prefix + entry.name)
                    waiting.append(f"{prefix}{entry.name}/")
                else:
                    files.add(prefix + entry.name)
    return files, folders


@contextmanager
def sandbox() -> Iterator[Path]:
    """An empty folder for a node's data."""
    folder = Path(
        tempfile.mkdtemp(prefix="overread-power-", dir=MEMORY if os.access(MEMORY, os.W_OK) else None)
    )
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


class Cuts:
    """The cuts of a recording, each with what it may leave."""

    def __init__(self, operations: Iterable[Operation], disk: Disk, seed: int, every: int = 1) -> None:
        """``every``: only each n-th point is cut at, and each where something more is acknowledged."""
        self.operations = list(operations)
        self.disk = disk
        self.seed = seed
        self.every = every
        self._points = 0
        self.count = {"synced": 0, "whole": 0, "torn": 0}

    def replay(self, folder: Path, said: Callable[[Said], bool], check: Callable[[], None]) -> None:
        """Call ``check`` with the folder in every state; ``said`` before, whether it hears an acknowledgement.

        The state of what was synced is made where it is another one, or where more was acknowledged; the others
        after every operation that changes a file or a name. Writes that follow upon each other in one file, as
        SQLite's of a frame's head and page, count as one: torn states have every part of them. Whoever fails is
        told the cut.
        """
        box = Sandbox(folder)
        synced_changes = -1
        for number, operation in enumerate(self.operations):
            self.disk.apply(operation)
            heard = isinstance(operation, Said) and said(operation)
            synced = self.disk.synced_changes != synced_changes
            changed = self._matters(operation) and not self._goes_on(number)
            synced_changes = self.disk.synced_changes
            if not heard and not ((synced or changed) and self._is_due()):
                continue
            if heard or synced:
                self._check(box, "synced", number, self.disk.synced(), check)
            if heard or changed:
                self._check(box, "whole", number, self.disk.whole(), check)
                chance = random.Random(f"{self.seed} {number}")
                self._check(box, "torn", number, self.disk.torn(chance), check)

    def _is_due(self) -> bool:
        self._points += 1
        return self._points % self.every == 0

    @staticmethod
    def _matters(operation: Operation) -> bool:
        return not isinstance(operation, Said | SyncBegun | SyncEnded | Opened | FolderMade)

    def _goes_on(self, number: int) -> bool:
        """Whether the next operation continues the same write."""
        this, following = self.operations[number], self.operations[number + 1 : number + 2]
        return isinstance(this, Written) and any(
            isinstance(other, Written)
            and (other.path, other.offset) == (this.path, (this.offset or 0) + len(this.data))
            for other in following
        )

    def _check(self, box: Sandbox, kind: str, number: int, state: State, check: Callable[[], None]) -> None:
        box.put(state)
        self.count[kind] += 1
        try:
            check()
        except Exception as error:
            done = [
                f"{n} {str(operation)[:160]}"
                for n, operation in enumerate(self.operations[: number + 1])
                if n > number - 12
            ]
            raise AssertionError(
                f"seed {self.seed}, cut after operation {number}, {kind}: {error!r}\n" + "\n".join(done)
            ) from error
