"""The reader processes of a worker: started when they are needed, replaced when they break, ended with the worker."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from inference.reading.limits import ReaderLimits
from inference.reading.process import ReaderProcess


class ReaderPool:
    """A few reader processes for the threads of this process."""

    def __init__(self, limits: ReaderLimits) -> None:
        self.limits = limits
        self._free = threading.BoundedSemaphore(limits.processes)
        self._lock = threading.Lock()
        self._idle: list[ReaderProcess] = []
        self._closed = False

    def warm(self) -> None:
        """Start one reader now, so that the first file does not wait for that."""
        with self.lease():
            pass

    @contextmanager
    def lease(self) -> Iterator[ReaderProcess]:
        """A reader for this thread alone; waits until one is free. A thread takes one at a time.

        Raises:
            OSError: no process can be started.
        """
        with self._free:
            reader = self._take()
            try:
                yield reader
            finally:
                self._give_back(reader)

    def close(self) -> None:
        """End the idle readers now, the others when they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.end()

    @property
    def pids(self) -> list[int]:
        """The processes that wait for a file."""
        with self._lock:
            return [reader.process.pid for reader in self._idle]

    def _take(self) -> ReaderProcess:
        while True:
            with self._lock:
                reader = self._idle.pop() if self._idle else None
            if reader is None:
                return ReaderProcess(self.limits)
            if reader.usable:
                return reader
            reader.end()  # it ended while it was idle, which is no file's fault

    def _give_back(self, reader: ReaderProcess) -> None:
        if reader.usable:
            with self._lock:
                if not self._closed:
                    self._idle.append(reader)
                    return
        reader.end()


_lock = threading.Lock()
_pool: ReaderPool | None = None


def readers() -> ReaderPool:
    """The readers of this process."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ReaderPool(ReaderLimits())
        return _pool


def limit_readers(limits: ReaderLimits) -> None:
    """Give the readers of this process other limits; those that run are ended when they are idle."""
    global _pool
    with _lock:
        former, _pool = _pool, ReaderPool(limits)
    if former is not None:
        former.close()


@atexit.register
def close_readers() -> None:
    """End all readers; the next file starts new ones."""
    global _pool
    with _lock:
        former, _pool = _pool, None
    if former is not None:
        former.close()
