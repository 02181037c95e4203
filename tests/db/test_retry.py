"""Pauses before something is tried again."""

from __future__ import annotations

import pytest

from db.retry import COMMITMENT, DELIVERY, DESTINATION, DISK, PROCESS, REJECTION, SYSLOG, RetryPolicy


@pytest.mark.parametrize(
    ("policy", "pauses"),
    [
        (COMMITMENT, [60, 120, 240, 480, 960, 1920, 3600, 3600]),
        (DISK, [5, 30, 180, 1080, 1080]),
        (PROCESS, [0.5, 1, 2, 4, 8, 16, 30, 30]),
        (SYSLOG, [1, 2, 4, 8, 16, 32, 60, 60]),
        (REJECTION, [0.25, 0.5, 1, 2, 4, 4]),
    ],
)
def test_pauses_grow_up_to_their_ceiling(policy: RetryPolicy, pauses: list[float]) -> None:
    assert [policy.pause(attempt) for attempt in range(1, len(pauses) + 1)] == pauses
    assert policy.pause(0) == policy.first
    assert policy.pause(100_000) == policy.ceiling


@pytest.mark.parametrize("policy", [DELIVERY, DESTINATION])
@pytest.mark.parametrize("attempt", [1, 4, 100])
def test_chance_takes_away_at_most_its_share(policy: RetryPolicy, attempt: int) -> None:
    full = min(2.0 ** (attempt - 1), policy.ceiling)
    pauses = [policy.pause(attempt) for _ in range(200)]
    assert full * (1 - policy.jitter) <= min(pauses) < max(pauses) <= full
