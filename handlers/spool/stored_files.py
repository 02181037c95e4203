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
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from handlers.spool.folders import make_durable, sync_folder

log = logging.getLogger("overread.stored_files")

KEPT_LEVELS = 2
"""Folders down to this level, such as ``spool/3f``, remain when empty; deeper ones go with their last file."""


class PathOutside(OSError):
    """A path leads out of the data folder, so the database was tampered with."""

    def __init__(self) -> None:
        super().__init__(errno.EPERM, "its path leads out of the data folder")


class StoredFiles:
    """The files in one data folder.

    Any method may raise OSError, and PathOutside for a path that leads out of the folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._durable: set[Path] = set()
        """Folders that this process has made durable; another process that created them may not have."""

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
        """Write a file so that it survives a power cut.

        The bytes are synced under a temporary name before the file is renamed, because a rerun may replace a file
        that the database refers to. Then the folder is synced.
        """
        target = self.local(path)
        if not target.parent.exists():
            self._durable.clear()
        for ancestor in reversed(PurePosixPath(path).parents[:-1]):
            folder = self.root / ancestor
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
