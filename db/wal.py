"""SQLite's write-ahead log as a file: how full it is, and how to give it its length in advance.

The file keeps its size when SQLite starts to overwrite it from the beginning.

References: https://www.sqlite.org/walformat.html (the layout of the log).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

HEADER_LENGTH = 32
FRAME_HEADER_LENGTH = 24


def filled_beyond(log: Path, size: int) -> bool:
    """Whether the log holds more than ``size`` bytes of valid frames.

    Frames are valid if they carry the salts of the log's header; those after them are left from an earlier round.
    SQLite writes new salts with the first frame after a checkpoint. Until then the earlier round still looks valid,
    which costs at most one checkpoint that has nothing to do.
    """
    try:
        descriptor = os.open(log, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        header = os.pread(descriptor, HEADER_LENGTH, 0)
        if len(header) < HEADER_LENGTH:
            return False
        (page_size,) = struct.unpack_from(">I", header, 8)
        frame = page_size + FRAME_HEADER_LENGTH
        position = HEADER_LENGTH + max(0, size - HEADER_LENGTH) // frame * frame
        return os.pread(descriptor, 8, position + 8) == header[16:24]
    finally:
        os.close(descriptor)


def extend(log: Path, size: int) -> None:
    """Lengthen the log with zeros to ``size`` bytes, so that commits need not sync a new file length.

    The caller holds the write lock. SQLite does not take zeros for a frame: a frame's page number is never 0.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CLOEXEC)
    try:
        length = os.fstat(descriptor).st_size
        if length < size:
            os.pwrite(descriptor, bytes(size - length), length)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
