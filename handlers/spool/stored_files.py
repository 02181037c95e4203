"""Where a stored path meets the data folder: one object opens, writes and removes what rows of the database speak of.

A path in the database is relative to the data folder, with slashes. Nothing else joins the two, so that another store
than a folder can stand behind this one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import uuid
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handlers.spool.folders import make_durable, sync_folder

log = logging.getLogger("overread.stored_files")

KEPT_LEVELS = 2
"""Folders down to this level, such as ``spool/3f``, stay when they are empty; deeper ones go with their last file."""


class PathOutside(OSError):
    """A path leads out of the data folder: a row was tampered with."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, "its path leads out of the data folder")


class StoredFiles:
    """The files below one data folder. Every method may raise OSError, and PathOutside for a path that leaves it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()
        """Folders whose names this process has synced: another process that made them may not have."""

    def local(self, path: str) -> Path:
        """Where on this machine the file lies, for readers and senders that open files by name."""
        parts = PurePosixPath(path).parts
        if not parts or parts[0].startswith("/") or ".." in parts or "\0" in path:
            raise PathOutside
        return self.root.joinpath(*parts)

    def open(self, path: str) -> BinaryIO:
        """The file, to be read."""
        return self.local(path).open("rb")

    def size(self, path: str) -> int:
        """Its bytes."""
        return self.local(path).stat().st_size

    def put(self, path: str, data: bytes) -> None:
        """Write a file so that it survives a cut of power: synced under a temporary name, renamed, its folder synced.

        The bytes are synced before the name, since a rerun may replace a file that a row already speaks of.
        """
        target = self.local(path)
        if not target.parent.exists():
            self._durable.clear()
        for above in reversed(PurePosixPath(path).parents[:-1]):
            folder = self.root / above
            if folder not in self._durable:
                make_durable(folder.parent, folder)
                self._durable.add(folder)
        temporary = target.with_name(f".{uuid.uuid4().hex}.part")
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.rename(target)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(target.parent)

    def remove(self, path: str) -> None:
        """Remove a file if it is there, and its folder with the last one."""
        target = self.local(path)
        target.unlink(missing_ok=True)
        if len(PurePosixPath(path).parts) - 1 > KEPT_LEVELS:
            with contextlib.suppress(OSError):  # other files are in it
                target.parent.rmdir()

    def clear_up(self, folder: str) -> None:
        """Remove what writers that died left unfinished below a folder: no row knows it. Only while nobody writes."""
        unfinished = list(self.local(folder).rglob(".*.part"))
        for path in unfinished:
            path.unlink()
        if unfinished:
            log.warning("results_cleared_up partial_removed=%d", len(unfinished))
