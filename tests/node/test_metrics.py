"""Metrics of a large node: the database is not read more often than it can be."""

from __future__ import annotations

import pytest

from db.database import Database
from db.errors import DatabaseUnavailable
from db.queue import Queue
from db.records import Done
from db.statistics import Statistics, gather
from node.configuration.configuration import Configuration
from node.views.metrics import DatabaseCollector
from tests.db.conftest import queued_job


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


def test_stages_of_the_latest_jobs_are_metrics(configuration: Configuration, database: Database) -> None:
    for number, milliseconds in enumerate((100.0, 300.0, 200.0)):
        queued_job(database, f"1.{number}")
        (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
        summary = {"model_used": "m", "prepare_ms": milliseconds}
        Queue(database).settle(job, Done(model_version="m", results=(), summary=summary))
    (latency,) = (
        metric
        for metric in DatabaseCollector(configuration, database).collect()
        if metric.name == "overread_stage_seconds"
    )
    said = {(s.labels["stage"], s.labels["quantile"]): s.value for s in latency.samples}
    assert (said["prepare", "0.5"], said["prepare", "0.95"]) == (0.2, 0.3)
