"""The reader processes of a worker: started on demand, replaced when they fail, ended with the worker."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from inference.reading.limits import ReaderLimits
from inference.reading.process import ReaderProcess


class ReaderPool:
    """Reader processes that the threads of this process share."""

    def __init__(self, limits: ReaderLimits) -> None:
        self.limits = limits
        self._free_places = threading.BoundedSemaphore(limits.processes)
        self._lock = threading.Lock()
        self._idle: list[ReaderProcess] = []
        self._closed = False

    def warm(self) -> None:
        """Start one reader and wait until it is ready, so that the first file does not have to.

        Raises:
            OSError: it does not start.
        """
        with self.lease() as reader:
            reader.wait_until_ready()

    @contextmanager
    def lease(self) -> Iterator[ReaderProcess]:
        """A reader for this thread alone; waits until one is free.

        A thread must not lease a second one meanwhile.

        Raises:
            OSError: no process can be started.
        """
        with self._free_places:
            reader = self._take()
            try:
                yield reader
            finally:
                self._give_back(reader)

    def close(self) -> None:
        """End the idle readers now, and the others once they are given back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for reader in idle:
            reader.end()

    @property
    def pids(self) -> list[int]:
        """Process ids of the idle readers."""
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
            reader.end()  # the process died while idle, so no file is to blame

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
    """The reader pool of this process, made on first use."""
    global _pool
    with _lock:
        if _pool is None:
            _pool = ReaderPool(ReaderLimits())
        return _pool


def limit_readers(limits: ReaderLimits) -> None:
    """Give the readers of this process new limits; readers with the old ones end once they are idle."""
    global _pool
    with _lock:
        previous, _pool = _pool, ReaderPool(limits)
    if previous is not None:
        previous.close()


@atexit.register
def close_readers() -> None:
    """End all readers of this process; the next file starts new ones."""
    global _pool
    with _lock:
        previous, _pool = _pool, None
    if previous is not None:
        previous.close()
