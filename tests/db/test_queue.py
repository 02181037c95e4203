"""Jobs: claims under leases, outcomes, and steering by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from db.database import Database
from db.errors import DatabaseError, IllegalTransition, StaleLease
from db.outbox import Outbox
from db.queue import Queue
from db.records import Done, Failed, RetryAfter, Skipped, WaitingFor
from db.results import Results
from db.settling import MAX_ATTEMPTS
from db.states import JobState
from tests.db.conftest import claimed_job, new_result, queued_job


def in_a_minute() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=1)


def test_claims_take_the_highest_priority_then_the_oldest(database: Database) -> None:
    queue = Queue(database)
    first, second, urgent = (queued_job(database, study) for study in ("2.1", "2.2", "2.3"))
    queue.prioritize(urgent.id, 10)
    assert queue.claim("w", ["other"], 2, 60) == []
    assert [job.id for job in queue.claim("w", ["other", "cxr"], 2, 60)] == [urgent.id]
    assert [job.id for job in queue.claim("w", ["cxr"], 2, 60)] == [first.id, second.id]
    assert queue.claim("w", ["cxr"], 2, 60) == []


def test_done_records_results_and_deliveries_with_the_state(database: Database) -> None:
    job = claimed_job(database)
    results = (new_result(), new_result(kind="overlay"))
    Queue(database).settle(job, Done(model_version="m1", results=results, summary={"a": 1}))
    settled = Queue(database).get(job.id)
    assert settled is not None
    assert (settled.state, settled.model_version, settled.summary) == (JobState.SUCCEEDED, "m1", {"a": 1})
    assert [r.kind for r in Results(database).of_job(job.id)] == ["sr", "overlay"]
    (delivery,) = Outbox(database).of_job(job.id)
    assert (delivery.destination, str(delivery.state)) == ("pacs", "pending")


def test_worker_that_lost_its_lease_changes_nothing(database: Database) -> None:
    queue = Queue(database)
    job = claimed_job(database, lease_seconds=0.0)
    assert queue.reclaim_expired(in_a_minute()) == 1
    (again,) = queue.claim("w2", ["cxr"], 1, 60)
    with pytest.raises(StaleLease):
        queue.settle(job, Done(model_version="m", results=(new_result(),)))
    assert Results(database).of_job(job.id) == []
    queue.settle(again, Done(model_version="m", results=(new_result(),)))
    assert len(Results(database).of_job(job.id)) == 1


def test_renewed_lease_does_not_expire(database: Database) -> None:
    queue = Queue(database)
    job = claimed_job(database, lease_seconds=0.0)
    queue.renew([job], 3600)
    assert queue.reclaim_expired(in_a_minute()) == 0
    queue.cancel(job.id)
    with pytest.raises(StaleLease):
        queue.renew([job], 3600)


def test_attempts_run_out(database: Database) -> None:
    queue = Queue(database)
    queued_job(database)
    for _ in range(MAX_ATTEMPTS):
        (job,) = queue.claim("w", ["cxr"], 1, 0)
        queue.release_worker("w")
    failed = queue.get(job.id)
    assert failed is not None
    assert failed.state is JobState.FAILED
    assert "given up" in str(failed.reason)
    assert queue.retry(job.id).state is JobState.QUEUED
    (fresh,) = queue.claim("w", ["cxr"], 1, 60)
    assert fresh.attempts == 1


def test_jobs_that_are_given_back_without_blame_are_never_given_up(database: Database) -> None:
    queue = Queue(database)
    queued_job(database)
    for _ in range(MAX_ATTEMPTS + 1):
        (job,) = queue.claim("w", ["cxr"], 1, 60)
        assert job.attempts == 1
        assert queue.release_worker("another worker", blameless=True) == 0
        assert queue.release_worker("w", blameless=True) == 1


def test_retry_later_waits_and_gives_up_in_the_end(database: Database) -> None:
    queue = Queue(database)
    queued_job(database)
    (job,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(job, RetryAfter(seconds=3600, reason="disk full"))
    assert queue.claim("w", ["cxr"], 1, 60) == []
    for _ in range(MAX_ATTEMPTS - 1):
        with database.write() as connection:
            from sqlalchemy import text

            connection.execute(text("UPDATE jobs SET not_before = NULL"))
        (job,) = queue.claim("w", ["cxr"], 1, 60)
        queue.settle(job, RetryAfter(seconds=0, reason="disk full"))
    ended = queue.get(job.id)
    assert ended is not None
    assert ended.state is JobState.FAILED


def test_waiting_job_runs_when_the_model_is_there_and_costs_no_attempt(database: Database) -> None:
    queue = Queue(database)
    job = claimed_job(database)
    queue.settle(job, WaitingFor(reason="model absent"))
    assert queue.claim("w", ["cxr"], 1, 60) == []
    assert queue.wake_waiting("cxr") == 1
    (again,) = queue.claim("w", ["cxr"], 1, 60)
    assert again.attempts == 1


@pytest.mark.parametrize(
    ("outcome", "state"),
    [(Failed(reason="broken"), JobState.FAILED), (Skipped(reason="lateral"), JobState.SKIPPED)],
)
def test_ends_keep_their_reason(database: Database, outcome: Failed | Skipped, state: JobState) -> None:
    job = claimed_job(database)
    Queue(database).settle(job, outcome)
    ended = Queue(database).get(job.id)
    assert ended is not None
    assert (ended.state, ended.reason) == (state, outcome.reason)


def test_cancelled_job_can_be_retried_and_a_finished_one_not_cancelled(database: Database) -> None:
    queue = Queue(database)
    job = queued_job(database)
    assert queue.cancel(job.id).state is JobState.CANCELLED
    assert queue.retry(job.id).state is JobState.QUEUED
    (held,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(held, Done(model_version="m", results=()))
    with pytest.raises(IllegalTransition):
        queue.cancel(job.id)
    with pytest.raises(DatabaseError):
        queue.retry(999_999)


def test_priority_by_hand_is_in_the_history(database: Database) -> None:
    job = queued_job(database)
    Queue(database).prioritize(job.id, 100)
    (last,) = Queue(database).history(job.id)[1:]
    assert (last.who, last.from_state, last.to_state, last.why) == (
        "operator",
        "queued",
        "queued",
        "priority 100",
    )


def test_history_tells_who_and_why(database: Database) -> None:
    job = claimed_job(database)
    Queue(database).settle(job, Failed(reason="broken"))
    entries = [(h.who, h.from_state, h.to_state, h.why) for h in Queue(database).history(job.id)]
    assert entries[1:] == [("w1", "queued", "running", "attempt 1"), ("w1", "running", "failed", "broken")]


def test_workers_that_claim_at_once_share_the_jobs_out(database: Database) -> None:
    jobs = [queued_job(database, f"3.{n}", source=f"CR{n % 3}") for n in range(24)]

    def work(number: int) -> list[int]:
        queue, mine = Queue(database), list[int]()
        while claimed := queue.claim(f"w{number}", ["cxr"], 3, 60):
            mine += [job.id for job in claimed]
        return mine

    with ThreadPoolExecutor(4) as pool:
        taken = [identifier for mine in pool.map(work, range(4)) for identifier in mine]
    assert sorted(taken) == sorted(job.id for job in jobs)
