"""Opens, writes and removes the files whose paths are in the database.

Those paths are relative to the data folder, with slashes. Only this module joins them to the folder, so that another
kind of store could replace it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handlers.spool.folders import sync_folder

log = logging.getLogger("overread.stored_files")

SYNCS_AT_ONCE = 8

KEPT_LEVELS = 2
"""Folders down to this level, such as ``spool/3f``, remain when empty; deeper ones go with their last file."""


class PathOutside(OSError):
    """A path leads out of the data folder, so the database was tampered with."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, "its path leads out of the data folder")


@dataclass(frozen=True, kw_only=True)
class UnsyncedFile:
    """A complete file that has a temporary name and may not survive a power cut yet."""

    path: str
    """Where it belongs."""
    temporary: str
    """Its name meanwhile, in the same folder."""


class StoredFiles:
    """The files in one data folder.

    Any method may raise OSError, and PathOutside for a path that leads out of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()
        """Folders with a name that this process has synced; another process that created them may not have."""

    def local(self, path: str) -> Path:
        """The path of a file on this machine, for readers and senders that open files by name."""
        parts = PurePosixPath(path).parts
        if not parts or parts[0].startswith("/") or ".." in parts or "\0" in path:
            raise PathOutside
        return self.root.joinpath(*parts)

    def open(self, path: str) -> BinaryIO:
        """Open a file for reading."""
        return self.local(path).open("rb")

    def size(self, path: str) -> int:
        """The size of a file in bytes."""
        return self.local(path).stat().st_size

    def put(self, path: str, data: bytes) -> None:
        """Write a file so that it survives a power cut."""
        written = self.write(path, data)
        try:
            self.put_all([written])
        except OSError:
            self.discard([written])
            raise

    def write(self, path: str, data: bytes) -> UnsyncedFile:
        """Write a file under a temporary name, for :meth:`put_all`, which another process may call."""
        target = self.local(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with temporary.open("wb") as file:
                file.write(data)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        return UnsyncedFile(path=path, temporary=temporary.name)

    def put_all(self, written: Sequence[UnsyncedFile]) -> None:
        """Make files that were written survive a power cut, all together.

        The bytes are synced under the temporary names before the files are renamed, because a rerun may replace a
        file that the database refers to. Then the folders are synced. Files that are synced side by side share the
        journal's commits. If anything fails, this may be called again with a part of the files.
        """
        if not written:
            return
        names = [(self.local(f.path).with_name(f.temporary), self.local(f.path)) for f in written]
        with ThreadPoolExecutor(min(len(written), SYNCS_AT_ONCE)) as threads:
            list(threads.map(_sync_first_that_exists, names))
            for temporary, target in names:
                if temporary.exists():
                    temporary.rename(target)
            above = self._folders_above({target.parent for _, target in names})
            list(threads.map(sync_folder, above))
        self._durable |= above

    def discard(self, written: Sequence[UnsyncedFile]) -> None:
        """Remove files that were written and are not to be put."""
        for file in written:
            with contextlib.suppress(OSError):  # a disk that fails; ``clear_up`` finds it later
                self.local(file.path).with_name(file.temporary).unlink(missing_ok=True)

    def _folders_above(self, folders: set[Path]) -> set[Path]:
        """Folders of files and what contains these, up to folders that are known to be durable."""
        changed: set[Path] = set()
        for folder in folders:
            changed |= {folder, folder.parent}
            ancestor = folder.parent
            while ancestor != self.root and ancestor not in self._durable:
                ancestor = ancestor.parent
                changed.add(ancestor)
        return changed

    def remove(self, path: str) -> None:
        """Remove a file if it exists, and its folder if that was the last file."""
        target = self.local(path)
        target.unlink(missing_ok=True)
        if len(PurePosixPath(path).parts) - 1 > KEPT_LEVELS:
            with contextlib.suppress(OSError):  # not empty
                target.parent.rmdir()

    def clear_up(self, folder: str) -> None:
        """Remove the temporary files that writers left in a folder when they died. Call it only while nobody writes."""
        unfinished = list(self.local(folder).rglob(".*.part"))
        for path in unfinished:
            path.unlink()
        if unfinished:
            log.warning("results_cleared_up partial_removed=%d", len(unfinished))


class UnsyncedFiles:
    """Writes files for another process to make durable."""

    def __init__(self, files: StoredFiles) -> None:
        self._files = files
        self.written: list[UnsyncedFile] = []

    def put(self, path: str, data: bytes) -> None:
        """Write a file under a temporary name.

        Raises:
            OSError: the disk is full or broken.
        """
        self.written.append(self._files.write(path, data))

    def discard(self) -> None:
        """Remove what was written."""
        self._files.discard(self.written)


def _sync_first_that_exists(names: tuple[Path, Path]) -> None:
    """Sync a file under its temporary name, or under its own if it was renamed already."""
    temporary, target = names
    with (temporary if temporary.exists() else target).open("rb") as file:
        os.fsync(file.fileno())
