"""Outcomes of many jobs at once."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import event

from db.database import Database
from db.errors import Contended
from db.outbox import Outbox
from db.queue import Queue
from db.records import Done, Failed, Job, NewResult, Outcome, RetryAfter, Skipped, WaitingFor
from db.results import Results
from db.states import JobState
from tests.db.conftest import new_result, queued_job


def claimed_jobs(database: Database, count: int) -> list[Job]:
    """Jobs that one worker holds."""
    for number in range(count):
        queued_job(database, f"4.{number}")
    return Queue(database).claim("w", ["cxr"], count, 60)


def done(*results: NewResult, **summary: Any) -> Done:
    """The outcome of a job that succeeded."""
    return Done(model_version="m", results=results, summary=summary)


def states(database: Database, jobs: list[Job]) -> list[JobState]:
    """The present states of jobs."""
    return [found.state for job in jobs if (found := Queue(database).get(job.id)) is not None]


def statements(database: Database, call: Callable[[], object]) -> int:
    """How many statements a call sends to the database."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        sent.append(statement)

    event.listen(database.engine, "before_cursor_execute", note)
    call()
    event.remove(database.engine, "before_cursor_execute", note)
    return len(sent)


def test_each_outcome_is_recorded_with_its_own_results_and_history(database: Database) -> None:
    queue, jobs = Queue(database), claimed_jobs(database, 6)
    first, second = (new_result(), new_result(kind="overlay")), (new_result(),)
    outcomes: list[Outcome] = [
        done(*first, a=1),
        done(*second),
        Skipped(reason="lateral"),
        Failed(reason="broken"),
        WaitingFor(reason="no model"),
        RetryAfter(seconds=3600, reason="disk full"),
    ]
    assert queue.settle_all(list(zip(jobs, outcomes, strict=True))) == []
    assert states(database, jobs) == ["succeeded", "succeeded", "skipped", "failed", "waiting", "queued"]
    for job, results in zip(jobs, (first, second, (), (), (), ()), strict=True):
        uids = [result.sop_instance_uid for result in results]
        assert [result.sop_instance_uid for result in Results(database).of_job(job.id)] == uids
        assert len(Outbox(database).of_job(job.id)) == bool(results)
    assert [queue.history(job.id)[-1].why for job in jobs] == [
        "2 results",
        "1 results",
        "lateral",
        "broken",
        "no model",
        "disk full",
    ]
    held, waiting = queue.get(jobs[5].id), queue.get(jobs[4].id)
    assert held is not None
    assert waiting is not None
    assert (held.lease_token, held.attempts, waiting.attempts) == (None, 1, 0)


def test_more_jobs_need_no_more_statements(database: Database) -> None:
    jobs = claimed_jobs(database, 9)

    def settle(some: list[Job]) -> int:
        settled = [(job, done(new_result())) for job in some]
        return statements(database, lambda: Queue(database).settle_all(settled))

    assert settle(jobs[:1]) == settle(jobs[1:])
    assert set(states(database, jobs)) == {JobState.SUCCEEDED}


def test_jobs_that_are_no_longer_held_are_left_out_and_named(database: Database) -> None:
    queue, jobs = Queue(database), claimed_jobs(database, 4)
    queue.cancel(jobs[1].id)
    queue.release_worker("w")
    (again,) = queue.claim("w2", ["cxr"], 1, 60)
    never_claimed = queued_job(database, "5.1")
    assert again.id == jobs[0].id
    settled = [(job, done(new_result())) for job in (jobs[0], jobs[1], again, never_claimed)]
    assert queue.settle_all(settled) == [jobs[0], jobs[1], never_claimed]
    assert states(database, [again, jobs[1], never_claimed]) == ["succeeded", "cancelled", "queued"]
    assert len(Results(database).of_job(again.id)) == 1
    assert Results(database).of_job(jobs[1].id) == []


def test_outcome_that_cannot_be_recorded_fails_its_own_job_alone(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    queue, jobs = Queue(database), claimed_jobs(database, 3)
    faulty = done(new_result(PatientID="Canary"), a=object())
    with caplog.at_level(logging.INFO):
        stale = queue.settle_all(
            [(jobs[0], done(new_result())), (jobs[1], faulty), (jobs[2], Skipped(reason="lateral"))]
        )
    assert stale == []
    assert states(database, jobs) == ["succeeded", "failed", "skipped"]
    failed = queue.get(jobs[1].id)
    assert failed is not None
    assert failed.reason == "its outcome cannot be recorded (TypeError): see the log"
    assert Results(database).of_job(jobs[1].id) == []
    assert f"outcome_not_recorded job={jobs[1].id} error=TypeError" in caplog.text
    assert "Canary" not in caplog.text


def test_rows_that_clash_leave_their_own_job_held_alone(database: Database) -> None:
    queue, jobs = Queue(database), claimed_jobs(database, 3)
    clashing: Any = replace(new_result(), path=None)  # type: ignore[arg-type]  # refused by the table
    with pytest.raises(Contended):
        queue.settle_all(
            [(job, done(r)) for job, r in zip(jobs, (clashing, new_result(), new_result()), strict=True)]
        )
    assert states(database, jobs) == ["running", "succeeded", "succeeded"]


def test_two_outcomes_of_one_job_are_one_and_a_stale_one(database: Database) -> None:
    (job,) = claimed_jobs(database, 1)
    assert Queue(database).settle_all([(job, done()), (job, Failed(reason="late"))]) == [job]
    assert states(database, [job]) == ["succeeded"]
    assert Queue(database).settle_all([]) == []


def test_many_jobs_are_renewed_in_one_statement(database: Database) -> None:
    queue, jobs = Queue(database), claimed_jobs(database, 5)
    assert statements(database, lambda: queue.renew(jobs[:1], 60)) == statements(
        database, lambda: queue.renew(jobs, 60)
    )
