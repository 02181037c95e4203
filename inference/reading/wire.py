"""The message format between a worker and its reader process: a fixed header, a JSON document, raw pixels.

A reader that parsed hostile data may send anything, so nothing is unpickled. A request carries the opened file
(SCM_RIGHTS). An answer's pixels are in a memory file that the worker made. The worker copies them with pread(2),
because the reader could truncate mapped memory while the worker uses it.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAXIMUM_DOCUMENT = 64 * 1024 * 1024
MAXIMUM_PIXEL_BYTES = 1024 * 1024 * 1024
PIXEL_TYPES = ("|u1", "|i1", "<u2", "<i2", "<u4", "<i4")

_HEADER = struct.Struct("<4sQLQ")
"""Magic, number of the request, bytes of the document, bytes of pixels."""
_MAGIC = b"ovr1"


class MalformedMessage(ValueError):
    """A message that is not in the format."""


class ChannelClosed(ConnectionError):
    """The other side has ended."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request or answer; ``pixels`` is the number of bytes in the memory file."""

    number: int
    document: dict[str, Any] = field(repr=False)
    pixels: int = 0


def send(channel: socket.socket, message: Message, file: int | None = None) -> None:
    """Send one message.

    Args:
        channel: the socket to the other side.
        message: what to send.
        file: descriptor of an opened file that goes with the message.

    Raises:
        OSError: the other side has ended.
    """
    document = json.dumps(message.document).encode()
    header = _HEADER.pack(_MAGIC, message.number, len(document), message.pixels)
    if file is None:
        channel.sendall(header + document)
        return
    sent = socket.send_fds(channel, [header], [file])
    channel.sendall(header[sent:] + document)


def receive(channel: socket.socket, deadline: float | None = None) -> Message:
    """Wait for the next message.

    Args:
        channel: the socket to the other side.
        deadline: when to give up, in seconds of ``time.monotonic``; None waits forever.

    Raises:
        TimeoutError: the message did not arrive in time.
        ChannelClosed: the other side has ended.
        MalformedMessage: what arrived is no message.
    """
    return _receive_body(channel, _receive_exactly(channel, _HEADER.size, deadline), deadline)


def receive_with_file(channel: socket.socket) -> tuple[Message, int]:
    """Wait for the next request; gives it and the descriptor of the file that came with it.

    Raises:
        ChannelClosed: the worker has ended.
        MalformedMessage: what arrived is no request with one file.
    """
    header, files, _, _ = socket.recv_fds(channel, _HEADER.size, 1)
    if not header:
        raise ChannelClosed
    if len(files) != 1:
        raise MalformedMessage("a request without a file")
    header += _receive_exactly(channel, _HEADER.size - len(header), None)
    return _receive_body(channel, header, None), files[0]


def write_pixels(memory: int, values: NDArray[np.generic]) -> int:
    """Write an array to the start of the memory file; gives its size in bytes."""
    view = np.ascontiguousarray(values).data.cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(memory, view[done:], done)
    return done


def read_pixels(memory: int, dtype: str, rows: int, columns: int) -> NDArray[np.integer]:
    """Copy an array of shape (rows, columns) out of the memory file and empty it.

    Raises:
        MalformedMessage: the memory file is shorter than the array.
    """
    values: NDArray[np.integer] = np.empty((rows, columns), dtype=dtype)
    view = values.data.cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(memory, [view[done:]], done)
        if count == 0:
            raise MalformedMessage("fewer pixels than announced")
        done += count
    os.ftruncate(memory, 0)
    return values


def _receive_body(channel: socket.socket, header: bytes, deadline: float | None) -> Message:
    magic, number, length, pixels = _HEADER.unpack(header)
    if magic != _MAGIC or length > MAXIMUM_DOCUMENT or pixels > MAXIMUM_PIXEL_BYTES:
        raise MalformedMessage("no message")
    try:
        document = json.loads(_receive_exactly(channel, length, deadline))
    except (ValueError, RecursionError):
        raise MalformedMessage("no JSON document") from None
    if not isinstance(document, dict):
        raise MalformedMessage("no JSON object")
    return Message(number=number, document=document, pixels=pixels)


def _receive_exactly(channel: socket.socket, length: int, deadline: float | None) -> bytes:
    data = bytearray()
    while len(data) < length:
        if deadline is not None:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            channel.settimeout(left)
        try:
            part = channel.recv(min(length - len(data), 1 << 20))
        except ConnectionResetError:
            raise ChannelClosed from None
        if not part:
            raise ChannelClosed
        data += part
    return bytes(data)
