"""Deliveries: claims by destination, outcomes, dead letters and resending."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import text

from db.database import Database
from db.outbox import Outbox
from db.plans import Plans
from db.queue import Queue
from db.records import DeliveryFailed, DeliveryRetry, Done, Sent
from tests.db.conftest import new_result, planned, queued_job


def deliver(
    database: Database,
    destinations: tuple[str, ...] = ("pacs",),
    objects: int = 2,
    priority: int = 0,
    study: str = "1.1",
) -> int:
    """A succeeded job with results on their way; its number."""
    job = queued_job(database, study, destinations=destinations, priority=priority)
    (held,) = Queue(database).claim("w", ["cxr"], 1, 60)
    results = tuple(new_result() for _ in range(objects))
    Queue(database).settle(held, Done(model_version="m", results=results))
    return job.id


def test_each_destination_has_its_own_deliveries(database: Database) -> None:
    outbox = Outbox(database)
    job = deliver(database, ("a", "b"))
    claimed = outbox.claim("a", "c1", 10, 60)
    assert len(claimed) == 2
    assert outbox.claim("a", "c1", 10, 60) == []
    assert len(outbox.claim("b", "c1", 1, 60)) == 1
    for delivery in claimed:
        outbox.settle([(delivery, Sent(status=0))])
    assert {d.destination: str(d.state) for d in outbox.of_job(job)} == {"a": "sent", "b": "pending"}


def test_warning_counts_as_sent_and_is_kept(database: Database) -> None:
    outbox = Outbox(database)
    job = deliver(database, objects=1)
    (delivery,) = outbox.claim("pacs", "c", 1, 60)
    outbox.settle([(delivery, Sent(status=0xB000))])
    (summary,) = outbox.of_job(job)
    assert (str(summary.state), summary.last_status) == ("sent", "B000")


def test_transient_failure_waits_and_permanent_one_is_a_dead_letter(database: Database) -> None:
    outbox = Outbox(database)
    job = deliver(database, objects=2)
    first, second = outbox.claim("pacs", "c", 2, 60)
    outbox.settle([(first, DeliveryRetry(seconds=3600, reason="busy", status=0xA700))])
    outbox.settle([(second, DeliveryFailed(reason="not supported", status=0x0122))])
    assert outbox.claim("pacs", "c", 2, 60) == []
    (summary,) = outbox.of_job(job)
    assert (str(summary.state), summary.last_status) == ("failed", "0122")
    assert outbox.retry(job) == 2
    assert [d.id for d in outbox.claim("pacs", "c", 2, 60)] == [first.id, second.id]


def test_failed_deliveries_are_retried_by_destination_however_many(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.outbox.ROWS_PER_TRANSACTION", 2)
    outbox = Outbox(database)
    job = deliver(database, ("a", "b"), objects=5)
    for destination in ("a", "b"):
        for delivery in outbox.claim(destination, "c", 10, 60):
            outbox.settle([(delivery, DeliveryFailed(reason="not supported", status=0x0122))])
    assert outbox.retry(destination="a") == 5
    assert outbox.counts() == {("a", "pending"): 5, ("b", "failed"): 5}
    assert outbox.retry() == 5
    told = [(to, entry.who, entry.to_state) for to, entry in outbox.history(job) if entry.why == "by hand"]
    assert told == [("a", "operator", "pending")] * 5 + [("b", "operator", "pending")] * 5


def test_sender_that_died_gives_its_deliveries_back(database: Database) -> None:
    outbox = Outbox(database)
    deliver(database)
    held = outbox.claim("pacs", "c1", 2, 60)
    assert outbox.release_sender("c2") == 0
    assert outbox.release_sender("c1") == 2
    assert outbox.settle([(held[0], Sent(status=0))]) == [held[0]]
    assert len(outbox.claim("pacs", "c1", 2, 0)) == 2
    assert outbox.reclaim_expired(datetime.now(UTC) + timedelta(seconds=1)) == 2


def test_outcomes_are_recorded_together_except_those_of_deliveries_that_are_no_longer_ours(
    database: Database,
) -> None:
    outbox = Outbox(database)
    job = deliver(database, objects=3)
    first, lost, third = outbox.claim("pacs", "c1", 3, 60)
    with database.write() as connection:
        connection.execute(
            text("UPDATE deliveries SET lease_token = 'other' WHERE id = :id"), {"id": lost.id}
        )
    failed = DeliveryFailed(reason="not supported", status=0x0122)
    assert outbox.settle([(d, Sent(status=0)) for d in (first, lost)] + [(third, failed)]) == [lost]
    assert outbox.counts() == {("pacs", "sent"): 1, ("pacs", "sending"): 1, ("pacs", "failed"): 1}
    told = [entry.to_state for _, entry in outbox.history(job) if entry.who == "courier"]
    assert told == ["sent", "failed"]


def test_results_of_a_job_of_higher_priority_are_claimed_first(database: Database) -> None:
    outbox = Outbox(database)
    jobs = [
        deliver(database, priority=priority, study=f"1.{number}")
        for number, priority in enumerate((0, 5, 0, 9))
    ]
    claimed = outbox.claim("pacs", "c", 7, 60)
    assert [d.job_id for d in claimed] == [jobs[3]] * 2 + [jobs[1]] * 2 + [jobs[0]] * 2 + [jobs[2]]
    assert [d.id for d in claimed[:2]] == sorted(d.id for d in claimed[:2])


def test_rerun_of_a_job_makes_no_second_delivery(database: Database) -> None:
    job = queued_job(database, inputs=())
    queue, outbox = Queue(database), Outbox(database)
    result = new_result()
    (held,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(held, Done(model_version="m", results=(result,)))
    Plans(database).reprocess("1.1", 1, [planned(inputs=())])
    (again,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(again, Done(model_version="m", results=(result,)))
    assert sum(outbox.counts().values()) == 1
    assert job.id != again.id
