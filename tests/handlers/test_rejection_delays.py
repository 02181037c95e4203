"""Peers that are rejected again and again wait longer each time, and fill no places by waiting."""

from __future__ import annotations

import threading

import pytest

from db.retry import REJECTION, RetryPolicy
from handlers.acceptor.rejection_delays import MAXIMUM_WAITING, RejectionDelays
from tests.peers.waiting import wait_until


def test_rejections_are_delayed_longer_and_longer() -> None:
    delays = RejectionDelays()
    pauses = [delays.count("10.0.0.1") for _ in range(12)]
    assert pauses[0] == 0
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == REJECTION.ceiling
    assert delays.count("10.0.0.2") == 0


def test_rejections_at_once_do_not_fill_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = RetryPolicy(first=300.0, ceiling=300.0)
    monkeypatch.setattr("handlers.acceptor.rejection_delays.REJECTION", policy)
    delays, stopping = RejectionDelays(), threading.Event()
    for _ in range(10):
        delays.count("10.0.0.1")
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(delays.wait("10.0.0.1", stopping)))
        for _ in range(MAXIMUM_WAITING + 5)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: answers == [False] * 5, 30, "those that are too many are told at once")
    stopping.set()
    for thread in threads:
        thread.join(5)
    assert answers.count(True) == MAXIMUM_WAITING
