"""The spool: received datasets as Part 10 files under names of our own, synced before they count.

Files lie in ``<spool>/<two hex digits>/``; one that is being written ends in ``.part``.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import struct
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from db.database import Database
from db.index import Index
from handlers.folders import make_durable, sync_folder
from handlers.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION

log = logging.getLogger("overread.spool")

FOLDERS = tuple(f"{number:02x}" for number in range(256))
PARTIAL = ".part"
WRITE_OUT_BYTES = 1_048_576
"""The disk is set to work on a file each time so much of it has come."""


def _element(group_element: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    padding = (b"\0" if vr in (b"UI", b"OB") else b" ") * (len(value) % 2)
    head = struct.pack("<HH2s", *group_element, vr)
    size = len(value) + len(padding)
    return head + (struct.pack("<xxI", size) if vr == b"OB" else struct.pack("<H", size)) + value + padding


def file_head(sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, source_ae: str) -> bytes:
    """Preamble and file meta information (PS3.10 section 7.1)."""
    meta = (
        _element((2, 1), b"OB", b"\0\1")
        + _element((2, 2), b"UI", sop_class_uid.encode())
        + _element((2, 3), b"UI", sop_instance_uid.encode())
        + _element((2, 0x10), b"UI", transfer_syntax_uid.encode())
        + _element((2, 0x12), b"UI", IMPLEMENTATION_CLASS_UID.encode())
        + _element((2, 0x13), b"SH", IMPLEMENTATION_VERSION.encode())
        + _element((2, 0x16), b"AE", source_ae.encode("ascii", "replace"))
    )
    return bytes(128) + b"DICM" + _element((2, 0), b"UL", struct.pack("<I", len(meta))) + meta


def make_folders(spool: Path) -> None:
    """Create the spool's folders, once at the start."""
    make_durable(spool.parent, *(spool / name for name in FOLDERS))


class SpoolFile:
    """One file on its way into the spool. Every method may raise OSError; then call ``discard``."""

    def __init__(self, spool: Path, folder: str, head: bytes) -> None:
        name = uuid.uuid4().hex
        self.relative = f"{folder}/{name}.dcm"
        self.path = spool / self.relative
        self._partial = self.path.with_name(name + PARTIAL)
        self._head_length = len(head)
        self._digest = hashlib.sha256()
        self._written_out = 0
        self.size = 0
        self._file = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o640)
        self._write(head)

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
        if self.size - self._written_out >= WRITE_OUT_BYTES:
            self.write_out()

    def write_out(self) -> None:
        """Set the disk to work on what has come, without waiting, so that the sync has less to do."""
        # Of pages that are not on the disk yet, this advice starts the writing.
        os.posix_fadvise(self._file, self._written_out, self.size - self._written_out, os.POSIX_FADV_DONTNEED)
        self._written_out = self.size

    @property
    def sha256(self) -> str:
        """The digest of the dataset's bytes so far, without preamble and file meta information."""
        return self._digest.hexdigest()

    @contextmanager
    def dataset(self) -> Iterator[memoryview]:
        """The dataset's bytes as they lie in the file."""
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

    def name(self) -> None:
        """Give the file its name; to be called before both syncs.

        On journalling file systems the first sync then mostly has both. A cut of power in between may leave a
        whole name with a part of the bytes; it has no row, so ``reconcile`` moves it away.
        """
        os.rename(self._partial, self.path)

    def sync(self) -> None:
        """Make the bytes durable."""
        os.fsync(self._file)
        self._close()

    def sync_name(self) -> None:
        """Make the name durable. Any thread may do it while another one syncs the bytes."""
        sync_folder(self.path.parent)

    def discard(self) -> None:
        """Remove the file, whatever its name is by now."""
        self._close()
        self._partial.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def reconcile(spool: Path, database: Database) -> None:
    """Clear up what a crash left in the spool. Only while no receiver runs.

    Partial files were never acknowledged and are removed. Whole files that no row knows were not
    acknowledged either; they go to the folder ``orphans`` beside the spool, since only a person may delete.
    """
    make_folders(spool)
    known = Index(database).known_paths()
    set_aside = spool.parent / "orphans"
    partial = orphans = 0
    for name in FOLDERS:
        for path in (spool / name).iterdir():
            if path.name.endswith(PARTIAL):
                path.unlink()
                partial += 1
            elif f"{spool.name}/{name}/{path.name}" not in known:
                if not orphans:
                    make_durable(spool.parent, set_aside)
                path.rename(set_aside / path.name)
                orphans += 1
    if orphans:
        sync_folder(set_aside)
    if partial or orphans:
        log.warning("spool_reconciled partial_removed=%d orphans_moved=%d", partial, orphans)
