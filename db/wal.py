"""SQLite's write-ahead log as a file: how far it is filled, and room for what will come.

The file keeps its size when it is used from its start again.

References: https://www.sqlite.org/walformat.html (the layout of the log).
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

HEADER_LENGTH = 32
FRAME_HEADER_LENGTH = 24


def filled_beyond(log: Path, size: int) -> bool:
    """Whether the log holds more than ``size`` bytes that count.

    Frames count when they carry the salts of the log's header; those behind them are of an earlier round.
    A transaction that wrote nothing right after a checkpoint still sees the earlier round as full, which
    costs one more checkpoint with nothing to do.
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
    """Write zeros behind what the log holds, up to ``size`` bytes, so that no commit has to sync a new length.

    Only under the write lock. Zeros are no frame: a frame's page number is never 0.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CLOEXEC)
    try:
        length = os.fstat(descriptor).st_size
        if length < size:
            os.pwrite(descriptor, bytes(size - length), length)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)
