"""The spool's files: received datasets as Part 10 files, synced before they are indexed.

Files are in ``<spool>/<two hex digits>/`` and have random names. Empty files are made in advance, many with one sync
of their folder, so that receiving a dataset needs only a sync of its bytes. Incomplete files lack the prefix ``DICM``.

References: PS3.10 section 7.1 (preamble, prefix, file meta information).
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import random
import struct
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.database import Database
from db.index import Index
from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from handlers.spool.folders import make_durable, sync_folder

log = logging.getLogger("overread.spool")

FOLDERS = tuple(f"{number:02x}" for number in range(256))
PREFIX_AT = 128
PREFIX = b"DICM"
FILES_AT_ONCE = 32
"""How many empty files are made together. If the receiver dies, ``reconcile`` removes them."""
WRITEBACK_BYTES = 1_048_576
"""After each so many bytes of a file, the system is told to start writing them to disk."""


def _encode_element(group_element: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    padding = (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", *group_element, vr)
    size = len(value) + len(padding)
    return head + (struct.pack("<xxI", size) if vr == b"OB" else struct.pack("<H", size)) + value + padding


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Preamble and file meta information, with zeros for the prefix, which ``SpoolFile.complete`` writes."""
    meta = (
        _encode_element((2, 1), b"OB", b"\0\1")
        + _encode_element((2, 2), b"UI", sop_class_uid.encode())
        + _encode_element((2, 3), b"UI", sop_instance_uid.encode())
        + _encode_element((2, 0x10), b"UI", transfer_syntax_uid.encode())
        + _encode_element((2, 0x12), b"UI", IMPLEMENTATION_CLASS_UID.encode())
        + _encode_element((2, 0x13), b"SH", IMPLEMENTATION_VERSION_NAME.encode())
        + _encode_element((2, 0x16), b"AE", source_ae.encode("ascii", "replace"))
    )
    return (
        bytes(PREFIX_AT + len(PREFIX)) + _encode_element((2, 0), b"UL", struct.pack("<I", len(meta))) + meta
    )


def make_folders(spool: Path) -> None:
    """Create the spool's folders durably; called once at the start."""
    make_durable(spool.parent, *(spool / name for name in FOLDERS))


class Spool:
    """Provides the files of one receiver process. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._unused: list[str] = []
        self._lock = threading.Lock()
        self._random = random.SystemRandom()

    def file(self, head: bytes) -> SpoolFile:
        """A file for one dataset; its name is durable already.

        Raises:
            OSError: no file can be created.
        """
        with self._lock:
            if not self._unused:
                self._unused = self._make_files()
            relative = self._unused.pop()
        return SpoolFile(self.folder, relative, head)

    def _make_files(self) -> list[str]:
        chosen = self._random.choice(FOLDERS)
        made: list[str] = []
        try:
            for _ in range(FILES_AT_ONCE):
                relative = f"{chosen}/{uuid.uuid4().hex}.dcm"
                os.close(os.open(self.folder / relative, os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640))
                made.append(relative)
            sync_folder(self.folder / chosen)
        except OSError:
            self._remove_files(made)
            raise
        return made

    def close(self) -> None:
        """Remove the unused empty files."""
        with self._lock:
            self._remove_files(self._unused)
            self._unused = []

    def _remove_files(self, unused: list[str]) -> None:
        try:
            for relative in unused:
                (self.folder / relative).unlink()
        except OSError as error:
            log.warning("empty_files_left error=%s", error.strerror)


class SpoolFile:
    """A spool file being written. Any method may raise OSError; then call ``discard``.

    Raises:
        OSError: the head could not be written; the file has been removed.
    """

    def __init__(self, spool: Path, relative: str, head: bytes) -> None:
        self.relative = relative
        self.path = spool / relative
        self._head_length = len(head)
        self._digest = hashlib.sha256()
        self._writeback_started = 0
        self.size = 0
        self._file = -1
        try:
            self._file = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            self._write(head)
        except OSError:
            self.discard()
            raise

    def _write(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            written = os.write(self._file, view)
            self.size += written
            view = view[written:]

    def append(self, data: memoryview) -> None:
        """Add a fragment of the dataset."""
        self._digest.update(data)
        self._write(data)
        if self.size - self._writeback_started >= WRITEBACK_BYTES:
            self._start_writeback()

    def complete(self) -> None:
        """Mark the dataset as complete: the file is now a Part 10 file, but not durable yet."""
        os.pwrite(self._file, PREFIX, PREFIX_AT)
        self._start_writeback()

    def _start_writeback(self) -> None:
        """Start writing the new bytes to disk without waiting, so that the sync has less to do."""
        # For dirty pages, this advice starts writeback.
        os.posix_fadvise(
            self._file, self._writeback_started, self.size - self._writeback_started, os.POSIX_FADV_DONTNEED
        )
        self._writeback_started = self.size

    @property
    def sha256(self) -> str:
        """Hexadecimal digest of the dataset's bytes so far, without preamble and file meta information."""
        return self._digest.hexdigest()

    @contextmanager
    def dataset(self) -> Iterator[memoryview]:
        """The dataset's bytes, mapped from the file; valid only within the ``with`` block."""
        if self.size == self._head_length:
            yield memoryview(b"")
            return
        with mmap.mmap(self._file, self.size, access=mmap.ACCESS_READ) as mapped:
            whole = memoryview(mapped)
            view = whole[self._head_length :]
            try:
                yield view
            finally:
                view.release()
                whole.release()

    def sync(self) -> None:
        """Make the bytes durable and close the file; calling it again does nothing."""
        if self._file >= 0:
            os.fsync(self._file)
            self._close()

    def discard(self) -> None:
        """Remove the file."""
        self._close()
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def reconcile(spool: Path, database: Database) -> None:
    """Clean up the spool after a crash. Call it only while no receiver runs.

    Files without a row in the index were never acknowledged. Incomplete ones are removed; complete ones are moved
    to the folder ``orphans`` beside the spool, because only a person may delete them.
    """
    make_folders(spool)
    known = Index(database).known_paths()
    set_aside = spool.parent / "orphans"
    partial = orphans = 0
    for name in FOLDERS:
        for path in (spool / name).iterdir():
            if f"{spool.name}/{name}/{path.name}" in known:
                continue
            if not is_whole(path):
                path.unlink()
                partial += 1
            else:
                if not orphans:
                    make_durable(spool.parent, set_aside)
                path.rename(set_aside / path.name)
                orphans += 1
    if orphans:
        sync_folder(set_aside)
    if partial or orphans:
        log.warning("spool_reconciled partial_removed=%d orphans_moved=%d", partial, orphans)


def is_whole(path: Path) -> bool:
    """Whether a spool file contains the whole dataset, which its prefix shows."""
    with path.open("rb") as file:
        return file.read(PREFIX_AT + len(PREFIX))[PREFIX_AT:] == PREFIX
