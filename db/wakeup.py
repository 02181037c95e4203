"""Wake-up hints between the processes of one machine. A process that misses one finds the work when it polls next.

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
    """Receives hints for one process of a role, by a datagram socket in the run folder."""

    def __init__(self, directory: Path, role: str) -> None:
        self.path = directory / f"{role}.{os.getpid()}.{_machine()}-{uuid.uuid4().hex[:8]}.sock"
        self._socket = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        with _short_path(self.path) as path:
            self._socket.bind(path)
        notify(directory, role)  # removes sockets that dead processes left

    def wait(self, timeout: float) -> bool:
        """Wait at most ``timeout`` seconds for a hint; whether one came. Several at once count as one."""
        ready, _, _ = select.select([self._socket], [], [], timeout)
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:
                self._socket.recv(1)
        return True

    def hint(self) -> None:
        """Wake the thread of this process that waits."""
        with contextlib.suppress(OSError), _short_path(self.path) as path:
            self._socket.sendto(b"!", path)

    def close(self) -> None:
        """Close and remove the socket."""
        self._socket.close()
        self.path.unlink(missing_ok=True)


def notify(directory: Path, role: str) -> None:
    """Wake every process of a role on this machine, and remove sockets that dead ones left."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as sender:
        for path in directory.glob(f"{role}.*.sock"):
            try:
                with _short_path(path) as short:
                    sender.sendto(b"!", short)
            except ConnectionRefusedError:
                # In a shared folder, sockets of other machines refuse too, although their processes are alive.
                if path.name.split(".")[2].startswith(_machine()):
                    path.unlink(missing_ok=True)
            except (BlockingIOError, FileNotFoundError):
                continue


@functools.cache
def _machine() -> str:
    """Eight characters that identify this machine: a socket's name has to be short."""
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


@contextlib.contextmanager
def _short_path(path: Path) -> Iterator[str]:
    """A short path to the same socket through its open folder: the kernel takes at most 107 bytes (unix(7))."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
