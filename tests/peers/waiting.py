"""Waiting for a condition with a deadline, and ports that nobody uses."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

T = TypeVar("T")

STALL_SECONDS = 0.1

FIRST_PORT = 20_000
PORTS = 1_500
_ports = itertools.count(os.getpid())

LOOK_SECONDS = 0.02
LOOK_CEILING_SECONDS = 0.2
"""What is waited for needs the processors too: the longer it takes, the less often it is looked at."""


def wait_until(condition: Callable[[], T | None], seconds: float, what: str) -> T:
    """The first true value of ``condition``; fails the test with ``what`` when time is up."""
    deadline = time.monotonic() + seconds
    pause = LOOK_SECONDS
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what}")
        time.sleep(pause)
        pause = min(pause * 1.25, LOOK_CEILING_SECONDS)


@contextmanager
def stalls() -> Iterator[list[float]]:
    """Seconds of each time, at least a tenth, for which this process did not run although it wanted to."""
    found: list[float] = []
    over = threading.Event()

    def watch() -> None:
        before = time.monotonic()
        while not over.wait(LOOK_SECONDS):
            now = time.monotonic()
            if now - before - LOOK_SECONDS > STALL_SECONDS:
                found.append(now - before - LOOK_SECONDS)
            before = now

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def free_port() -> int:
    """A TCP port of the loopback address that is free now, and that no other test gets.

    Below those that the system gives to connections; a range for each process of pytest-xdist.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    while True:
        port = FIRST_PORT + PORTS * worker + next(_ports) % PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback address."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
