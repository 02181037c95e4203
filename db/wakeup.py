"""Wake-up hints between the processes of one machine; whoever misses one finds the work at its next look.

See docs/decisions/0004-hints.md.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import select
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path


class Wakeup:
    """A place where one process of a role hears hints: a datagram socket in the run folder."""

    def __init__(self, directory: Path, role: str) -> None:
        self.path = directory / f"{role}.{os.getpid()}.{_machine()}-{uuid.uuid4().hex[:8]}.sock"
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        with _short_path(self.path) as path:
            self._socket.bind(path)
        notify(directory, role)  # clears away what those before it left

    def wait(self, timeout: float) -> bool:
        """Wait for a hint, at most ``timeout`` seconds; hints that piled up count as one."""
        ready, _, _ = select.select([self._socket], [], [], timeout)
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def close(self) -> None:
        self._socket.close()
        self.path.unlink(missing_ok=True)


def notify(directory: Path, role: str) -> None:
    """Hint every process of a role on this machine; sockets that dead processes of it left are cleared away."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        for path in directory.glob(f"{role}.*.sock"):
            try:
                with _short_path(path) as short:
                    sender.sendto(b"!", short)
            except ConnectionRefusedError:
                # Those of another machine on a shared folder are refused as well.
                if path.name.split(".")[2].startswith(_machine()):
                    path.unlink(missing_ok=True)
            except (BlockingIOError, FileNotFoundError):
                continue


@functools.cache
def _machine() -> str:
    """Short, since a socket's name has to be."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """The path by way of its open folder: a socket's name has room for 107 bytes only (unix(7))."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
