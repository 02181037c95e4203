"""How jobs leave their workers: with outcomes, which make results and deliveries, or back into the queue."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from sqlalchemy import ColumnElement, Connection, select

from db import results as result_rows
from db.database import MAX_PARAMETERS, now, time_text
from db.records import Done, Job, Outcome, RetryAfter, Skipped, WaitingFor
from db.states import JobEvent, JobState
from db.tables import jobs
from db.transitions import JOBS, NO_LEASE, Change, change_all

MAX_ATTEMPTS = 5
"""A job that was claimed this often without success is given up."""


def record_outcomes(connection: Connection, settled: Sequence[tuple[Job, Outcome]]) -> list[Job]:
    """Record outcomes, with results and deliveries; returns the jobs that are no longer held, which stay as they are.

    Raises:
        Exception: an outcome cannot be recorded. The transaction has to be rolled back.
    """
    owners = _owners(connection, [job for job, _ in settled])
    held = [(job, outcome) for job, outcome in settled if (job.id, job.lease_token) in owners]
    changes = [_change(job, outcome, owners[job.id, job.lease_token]) for job, outcome in held]
    change_all(connection, JOBS, JobState.RUNNING, changes)
    made = [(job, outcome.results) for job, outcome in held if isinstance(outcome, Done)]
    result_rows.insert_results(connection, made)
    return [job for job, _ in settled if (job.id, job.lease_token) not in owners]


def _owners(connection: Connection, held: Sequence[Job]) -> dict[tuple[int, str | None], str]:
    """Who holds each job, by its number and lease, and locks its row. Jobs that are no longer held are not in it."""
    owners: dict[tuple[int, str | None], str] = {}
    identifiers = sorted(job.id for job in held)
    for start in range(0, len(identifiers), MAX_PARAMETERS):
        rows = connection.execute(
            select(jobs.c.id, jobs.c.lease_token, jobs.c.owner)
            .where(
                jobs.c.id.in_(identifiers[start : start + MAX_PARAMETERS]),
                jobs.c.state == str(JobState.RUNNING),
            )
            .order_by(jobs.c.id)
            .with_for_update()
        )
        owners.update(((row.id, row.lease_token), row.owner) for row in rows)
    return owners


def _change(job: Job, outcome: Outcome, owner: str) -> Change:
    event, why, values = _transition_for(job, outcome)
    return Change(identifier=job.id, event=event, who=owner, why=why, values={**NO_LEASE, **values})


def _transition_for(job: Job, outcome: Outcome) -> tuple[JobEvent, str, dict[str, Any]]:
    moment = now()
    finished = {"finished_at": time_text(moment)}
    if isinstance(outcome, Done):
        values = {
            "model_version": outcome.model_version,
            "summary": json.dumps(outcome.summary),
            "review_advised": outcome.review_advised,
            "reason": outcome.summary.get("review_advised"),
        }
        return JobEvent.SUCCEED, f"{len(outcome.results)} results", {**values, **finished}
    if isinstance(outcome, Skipped):
        values = {"reason": outcome.reason, "model_version": outcome.model_version}
        return JobEvent.SKIP, outcome.reason, {**values, **finished}
    if isinstance(outcome, WaitingFor):
        return (
            JobEvent.WAIT,
            outcome.reason,
            {"reason": outcome.reason, "attempts": max(job.attempts - 1, 0)},
        )
    if isinstance(outcome, RetryAfter) and job.attempts < MAX_ATTEMPTS:
        later = time_text(moment + timedelta(seconds=outcome.seconds))
        return JobEvent.RETRY_LATER, outcome.reason, {"reason": outcome.reason, "not_before": later}
    reason = outcome.reason
    if isinstance(outcome, RetryAfter):
        reason = f"given up after {job.attempts} attempts: {reason}"
    return JobEvent.FAIL, reason, {"reason": reason, **finished}


def requeue(
    connection: Connection, which: ColumnElement[bool], reason: str, who: str, *, blameless: bool
) -> int:
    """Queue running jobs again, or give them up after too many attempts; returns how many.

    Args:
        connection: the caller's transaction.
        which: the condition on the jobs.
        reason: for the history.
        who: for the history.
        blameless: the jobs did not cause it, so the attempt does not count.
    """
    rows = connection.execute(
        select(jobs.c.id, jobs.c.attempts).where(which).with_for_update(skip_locked=True)
    ).all()
    changes = []
    for row in rows:
        values: dict[str, Any] = dict(NO_LEASE)
        event, why = JobEvent.LEASE_LOST, reason
        if blameless:
            values["attempts"] = row.attempts - 1
        elif row.attempts >= MAX_ATTEMPTS:
            event, why = JobEvent.FAIL, f"given up as poisonous after {row.attempts} attempts: {reason}"
            values |= {"reason": why, "finished_at": time_text(now())}
        changes.append(Change(identifier=row.id, event=event, who=who, why=why, values=values))
    change_all(connection, JOBS, JobState.RUNNING, changes)
    return len(rows)
