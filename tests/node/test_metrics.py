"""Metrics of a large node: the database is not read more often than it can be."""

from __future__ import annotations

import pytest

from db.database import Database
from db.errors import DatabaseUnavailable
from db.statistics import Statistics, gather
from node.configuration.configuration import Configuration
from node.views.metrics import DatabaseCollector


def test_numbers_that_take_long_to_gather_are_kept_for_a_while(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [100.0]
    gathered: list[float] = []

    def slow(of: Database) -> Statistics:
        gathered.append(clock[0])
        clock[0] += 5.0
        return gather(of)

    monkeypatch.setattr("node.views.metrics.gather", slow)
    monkeypatch.setattr("node.views.metrics.time.monotonic", lambda: clock[0])
    collector = DatabaseCollector(configuration, database)
    for moment in (100.0, 110.0, 190.0, 205.0):
        clock[0] = max(clock[0], moment)
        assert list(collector.collect())

    def away() -> str:
        raise DatabaseUnavailable("The database does not answer.")

    monkeypatch.setattr(database, "schema_status", away)
    (up,) = collector.collect()
    assert up.samples[0].value == 0
    assert gathered == [100.0, 205.0]
