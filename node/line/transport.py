"""Messages between the worker and its stage processes: pickles whose arrays are in shared memory.

Both sides are this node's own processes and parse nothing hostile: files are parsed by reader processes, whose
answers are not pickled (see ``inference.reading.wire``). An array is copied once, into a memory file that goes with
the message; the receiver uses it there.
"""

from __future__ import annotations

import mmap
import os
import pickle
import socket
import struct
from collections.abc import Sequence
from typing import Any

SHARED_BYTES = 32 * 1024
"""Arrays of at least this size go through shared memory."""
ALIGNMENT = 64

_HEADER = struct.Struct("<QQ")
"""Bytes of the pickle, number of shared buffers."""
_SIZE = struct.Struct("<Q")


class ChannelClosed(ConnectionError):
    """The other side has ended."""


def send(channel: socket.socket, value: object) -> None:
    """Send one message.

    Raises:
        OSError: the other side has ended, or there is no memory.
        TypeError, AttributeError or pickle.PicklingError: the value cannot be pickled; nothing was sent.
    """
    shared: list[memoryview] = []

    def in_band(buffer: pickle.PickleBuffer) -> bool:
        view = buffer.raw()
        if view.nbytes < SHARED_BYTES:
            return True
        shared.append(view)
        return False

    data = pickle.dumps(value, protocol=5, buffer_callback=in_band)
    head = _HEADER.pack(len(data), len(shared)) + b"".join(_SIZE.pack(view.nbytes) for view in shared)
    if not shared:
        channel.sendall(head + data)
        return
    memory = os.memfd_create("overread-line", os.MFD_CLOEXEC)
    try:
        for offset, view in zip(_offsets([view.nbytes for view in shared]), shared, strict=False):
            _write(memory, view, offset)
        sent = socket.send_fds(channel, [head], [memory])
    finally:
        os.close(memory)
    channel.sendall(head[sent:] + data)


def receive(channel: socket.socket) -> Any:
    """Wait for the next message, as long as the channel's timeout allows for each part of it.

    Raises:
        TimeoutError: nothing came in time.
        ChannelClosed: the other side has ended.
    """
    try:
        head, descriptors, _, _ = socket.recv_fds(channel, _HEADER.size, 1)
    except ConnectionResetError:
        raise ChannelClosed from None
    memory = descriptors[0] if descriptors else None
    try:
        head += _receive_exactly(channel, _HEADER.size - len(head)) if head else b""
        if not head:
            raise ChannelClosed
        length, count = _HEADER.unpack(head)
        packed = _receive_exactly(channel, count * _SIZE.size)
        sizes = [size for (size,) in _SIZE.iter_unpack(packed)]
        data = _receive_exactly(channel, length)
        return pickle.loads(data, buffers=_views(memory, sizes))  # noqa: S301 - from this node's own process
    finally:
        if memory is not None:
            os.close(memory)


def _views(memory: int | None, sizes: Sequence[int]) -> list[memoryview]:
    """The shared buffers; the memory is freed with the last array that uses one."""
    if memory is None:
        return []
    *starts, end = _offsets(sizes)
    whole = memoryview(mmap.mmap(memory, end))
    return [whole[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def _offsets(sizes: Sequence[int]) -> list[int]:
    """Where each buffer starts, and where the last one ends."""
    offsets = [0]
    for size in sizes:
        offsets.append(offsets[-1] + -(-size // ALIGNMENT) * ALIGNMENT)
    return offsets


def _write(memory: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(memory, view[done:], offset + done)
    os.ftruncate(memory, offset + -(-len(view) // ALIGNMENT) * ALIGNMENT)


def _receive_exactly(channel: socket.socket, length: int) -> bytes:
    data = bytearray(length)
    view, done = memoryview(data), 0
    while done < length:
        try:
            count = channel.recv_into(view[done:])
        except ConnectionResetError:
            raise ChannelClosed from None
        if count == 0:
            raise ChannelClosed
        done += count
    return bytes(data)
