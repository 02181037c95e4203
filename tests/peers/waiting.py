"""Waiting for a condition with a deadline, and ports that nobody uses."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

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


def free_port() -> int:
    """A TCP port of the loopback address that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int) -> bool:
    """Whether something listens on a port of the loopback address."""
    try:
        socket.create_connection(("127.0.0.1", port), 0.5).close()
    except OSError:
        return False
    return True
