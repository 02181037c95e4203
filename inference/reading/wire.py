"""The fixed format in which a worker and its reader process talk: a header, a JSON document, raw pixels.

Nothing is unpickled: the reader has parsed hostile data and may say anything. Requests carry the opened file
(SCM_RIGHTS), answers their pixels in a memory file that the worker made. The worker copies pixels with
pread(2): mapped memory could be cut off under it.
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
"""Mark, number of the request, bytes of the document, bytes of pixels."""
_MARK = b"ovr1"


class Nonsense(ValueError):
    """An answer that no sound reader gives."""


class Gone(ConnectionError):
    """The other side has ended."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """One request or answer; ``pixels`` counts bytes in the memory file."""

    number: int
    document: dict[str, Any] = field(repr=False)
    pixels: int = 0


def send(channel: socket.socket, message: Message, file: int | None = None) -> None:
    """Send one message, with an opened file where it has one.

    Raises:
        OSError: the other side is gone.
    """
    document = json.dumps(message.document).encode()
    header = _HEADER.pack(_MARK, message.number, len(document), message.pixels)
    if file is None:
        channel.sendall(header + document)
        return
    sent = socket.send_fds(channel, [header], [file])
    channel.sendall(header[sent:] + document)


def receive(channel: socket.socket, deadline: float | None = None) -> Message:
    """The next message; ``deadline`` is on the monotonic clock.

    Raises:
        TimeoutError: it is not there in time.
        Gone: the other side has ended.
        Nonsense: it is no message.
    """
    return _rest(channel, _exactly(channel, _HEADER.size, deadline), deadline)


def receive_with_file(channel: socket.socket) -> tuple[Message, int]:
    """The next request and the file that came with it.

    Raises:
        Gone: the worker has ended.
        Nonsense: it is no request with one file.
    """
    header, files, _, _ = socket.recv_fds(channel, _HEADER.size, 1)
    if not header:
        raise Gone
    if len(files) != 1:
        raise Nonsense("a request without a file")
    header += _exactly(channel, _HEADER.size - len(header), None)
    return _rest(channel, header, None), files[0]


def write_pixels(memory: int, values: NDArray[np.generic]) -> int:
    """Put an array at the start of the memory file; its bytes."""
    view = np.ascontiguousarray(values).data.cast("B")
    done = 0
    while done < len(view):
        done += os.pwrite(memory, view[done:], done)
    return done


def read_pixels(memory: int, dtype: str, rows: int, columns: int) -> NDArray[np.integer]:
    """Copy an array of shape (rows, columns) out of the memory file and empty it.

    Raises:
        Nonsense: the file has not as many bytes.
    """
    values: NDArray[np.integer] = np.empty((rows, columns), dtype=dtype)
    view = values.data.cast("B")
    done = 0
    while done < len(view):
        count = os.preadv(memory, [view[done:]], done)
        if count == 0:
            raise Nonsense("fewer pixels than announced")
        done += count
    os.ftruncate(memory, 0)
    return values


def _rest(channel: socket.socket, header: bytes, deadline: float | None) -> Message:
    mark, number, length, pixels = _HEADER.unpack(header)
    if mark != _MARK or length > MAXIMUM_DOCUMENT or pixels > MAXIMUM_PIXEL_BYTES:
        raise Nonsense("no message")
    try:
        document = json.loads(_exactly(channel, length, deadline))
    except (ValueError, RecursionError):
        raise Nonsense("no JSON document") from None
    if not isinstance(document, dict):
        raise Nonsense("no JSON object")
    return Message(number=number, document=document, pixels=pixels)


def _exactly(channel: socket.socket, length: int, deadline: float | None) -> bytes:
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
            raise Gone from None
        if not part:
            raise Gone
        data += part
    return bytes(data)
