"""The queue: workers claim jobs under a lease and settle each with its outcome."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, update

from db import results as result_rows
from db.database import Database, now, read_optional_time, read_time, time_text
from db.errors import IllegalTransition, StaleLease
from db.records import (
    Done,
    HistoryEntry,
    Job,
    Outcome,
    RetryAfter,
    Skipped,
    WaitingFor,
)
from db.states import DeliveryState, JobEvent, JobState
from db.tables import deliveries, jobs
from db.transitions import JOBS, NO_LEASE, OPERATOR, change, read_entry, record

MAX_ATTEMPTS = 5
"""A job that was claimed this often without success is given up."""


class Queue:
    """All jobs. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def claim(self, worker: str, engines: Sequence[str], limit: int, lease_seconds: float) -> list[Job]:
        """Claim due jobs of one engine under a lease.

        Jobs of the highest priority come first, then the oldest; the first one decides the engine. A job that was
        claimed before without success is claimed alone.

        Args:
            worker: the name of the claiming process.
            engines: the engines that it has.
            limit: at most so many jobs.
            lease_seconds: how long nobody else gets them.
        """
        if not self._has_due(engines):
            return []
        with self.database.write() as connection:
            moment = now()
            due = (
                select(jobs)
                .where(JOBS.due(JobState.QUEUED, moment), jobs.c.engine.in_(engines))
                .order_by(jobs.c.priority.desc(), jobs.c.id)
                .with_for_update(skip_locked=True)
            )
            first = connection.execute(due.limit(1)).one_or_none()
            if first is None:
                return []
            # A job that failed or killed its worker runs alone, so that it harms no other job.
            alone = first.attempts > 0
            batch = due.where(jobs.c.id == first.id) if alone else due.where(jobs.c.attempts == 0)
            rows = connection.execute(batch.where(jobs.c.engine == first.engine).limit(limit)).all()
            for row in rows:
                change(
                    connection,
                    JOBS,
                    row.id,
                    JobState.QUEUED,
                    JobEvent.CLAIM,
                    who=worker,
                    why=f"attempt {row.attempts + 1}",
                    values={
                        "owner": worker,
                        "lease_token": uuid.uuid4().hex,
                        "lease_until": time_text(moment + timedelta(seconds=lease_seconds)),
                        "attempts": row.attempts + 1,
                        "started_at": time_text(moment),
                        "not_before": None,
                    },
                )
            return [self._read_row(connection, row.id) for row in rows]

    def _has_due(self, engines: Sequence[str]) -> bool:
        """Whether a job is due. Read without the write lock, so that idle workers disturb nobody."""
        with self.database.read() as connection:
            return (
                connection.execute(
                    select(jobs.c.id)
                    .where(JOBS.due(JobState.QUEUED, now()), jobs.c.engine.in_(engines))
                    .limit(1)
                ).one_or_none()
                is not None
            )

    def renew(self, held: Sequence[Job], lease_seconds: float) -> None:
        """Extend the leases of jobs.

        Raises:
            StaleLease: one of them is no longer held; the others were renewed.
        """
        until = time_text(now() + timedelta(seconds=lease_seconds))
        with self.database.write() as connection:
            renewed = sum(
                connection.execute(
                    update(jobs)
                    .where(
                        jobs.c.id == job.id, jobs.c.state == "running", jobs.c.lease_token == job.lease_token
                    )
                    .values(lease_until=until)
                ).rowcount
                for job in held
            )
        if renewed < len(held):
            raise StaleLease(f"{len(held) - renewed} of {len(held)} jobs are no longer held.")

    def settle(self, job: Job, outcome: Outcome) -> None:
        """Record the outcome of a job, with its results and deliveries in the same transaction.

        Raises:
            StaleLease: the job is no longer held by the caller; nothing was recorded.
        """
        with self.database.write() as connection:
            owner = connection.execute(select(jobs.c.owner).where(jobs.c.id == job.id)).scalar_one()
            event, why, values = self._transition_for(job, outcome)
            if not job.lease_token:
                raise StaleLease(f"Job {job.id} was never claimed.")
            change(
                connection,
                JOBS,
                job.id,
                JobState.RUNNING,
                event,
                who=owner or "worker",
                why=why,
                lease_token=job.lease_token,
                values={**NO_LEASE, **values},
            )
            if isinstance(outcome, Done):
                result_rows.insert_results(connection, job, outcome.results)

    @staticmethod
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

    def reclaim_expired(self, moment: datetime) -> int:
        """Queue jobs again whose lease ran out; returns how many."""
        expired = (jobs.c.state == "running") & (jobs.c.lease_until < time_text(moment))
        return self._requeue(expired, "its lease ran out", "ticker")

    def release_worker(self, worker: str, why: str = "its worker died", *, blameless: bool = False) -> int:
        """Queue all jobs again that a worker holds; returns how many.

        Args:
            worker: its name.
            why: for the history.
            blameless: the jobs did not cause it, so the attempt does not count.
        """
        held = (jobs.c.state == "running") & (jobs.c.owner == worker)
        return self._requeue(held, why, worker, blameless=blameless)

    def _requeue(self, which: Any, reason: str, who: str, *, blameless: bool = False) -> int:
        with self.database.read() as connection:
            if connection.execute(select(jobs.c.id).where(which).limit(1)).one_or_none() is None:
                return 0
        with self.database.write() as connection:
            rows = connection.execute(select(jobs).where(which).with_for_update(skip_locked=True)).all()
            for row in rows:
                values: dict[str, Any] = dict(NO_LEASE)
                event, why = JobEvent.LEASE_LOST, reason
                if blameless:
                    values["attempts"] = row.attempts - 1
                elif row.attempts >= MAX_ATTEMPTS:
                    event, why = (
                        JobEvent.FAIL,
                        f"given up as poisonous after {row.attempts} attempts: {reason}",
                    )
                    values |= {"reason": why, "finished_at": time_text(now())}
                change(connection, JOBS, row.id, JobState.RUNNING, event, who=who, why=why, values=values)
            return len(rows)

    def waiting_by_engine(self) -> dict[str, int]:
        """How many jobs are queued or waiting, by engine."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(jobs.c.engine, func.count())
                .where(jobs.c.state.in_([str(JobState.QUEUED), str(JobState.WAITING)]))
                .group_by(jobs.c.engine)
            ).all()
        return {str(engine): count for engine, count in rows}

    def wake_waiting(self, engine: str) -> int:
        """Queue the jobs that wait for this engine's model; returns how many."""
        which = (jobs.c.state == "waiting") & (jobs.c.engine == engine)
        with self.database.read() as connection:
            if connection.execute(select(jobs.c.id).where(which).limit(1)).one_or_none() is None:
                return 0
        with self.database.write() as connection:
            rows = connection.execute(select(jobs.c.id).where(which).with_for_update(skip_locked=True)).all()
            for row in rows:
                change(
                    connection,
                    JOBS,
                    row.id,
                    JobState.WAITING,
                    JobEvent.WAKE,
                    who="worker",
                    why="the model is there",
                    values={"reason": None},
                )
            return len(rows)

    def get(self, identifier: int) -> Job | None:
        """The job with this number, or None."""
        with self.database.read() as connection:
            row = connection.execute(select(jobs).where(jobs.c.id == identifier)).one_or_none()
        return None if row is None else read_job(row)

    def jobs(
        self,
        state: JobState | None = None,
        study_instance_uid: str | None = None,
        limit: int = 100,
        delivery: DeliveryState | None = None,
    ) -> list[Job]:
        """Jobs, newest first.

        Args:
            state: only jobs in this state.
            study_instance_uid: only jobs of this study.
            limit: at most so many.
            delivery: only jobs with a delivery in this state.
        """
        statement = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
        if state is not None:
            statement = statement.where(jobs.c.state == str(state))
        if study_instance_uid is not None:
            statement = statement.where(jobs.c.study_instance_uid == study_instance_uid)
        if delivery is not None:
            of_job = (deliveries.c.job_id == jobs.c.id) & (deliveries.c.state == str(delivery))
            statement = statement.where(exists().where(of_job))
        with self.database.read() as connection:
            return [read_job(row) for row in connection.execute(statement)]

    def earlier_jobs(self, job: Job) -> int:
        """How many jobs of the same study were created before this one. The number never changes."""
        earlier = select(func.count()).where(
            jobs.c.study_instance_uid == job.study_instance_uid, jobs.c.id < job.id
        )
        with self.database.read() as connection:
            return int(connection.execute(earlier).scalar_one())

    def retry(self, identifier: int) -> Job:
        """Queue a failed, cancelled or waiting job again, with its full number of attempts.

        Raises:
            IllegalTransition: the job is in another state or does not exist.
        """
        values = {"attempts": 0, "reason": None, "not_before": None, "finished_at": None}
        return self._change_by_hand(identifier, JobEvent.RETRY, values)

    def cancel(self, identifier: int) -> Job:
        """Cancel a job that is not finished. If a worker still runs it, its outcome is thrown away.

        Raises:
            IllegalTransition: the job is finished or does not exist.
        """
        values = {**NO_LEASE, "reason": "cancelled by hand", "finished_at": time_text(now())}
        return self._change_by_hand(identifier, JobEvent.CANCEL, values)

    def _change_by_hand(self, identifier: int, event: JobEvent, values: dict[str, Any]) -> Job:
        with self.database.write() as connection:
            row = self._locked_row(connection, identifier)
            change(
                connection,
                JOBS,
                row.id,
                JobState(row.state),
                event,
                who=OPERATOR,
                why="by hand",
                values=values,
            )
            return self._read_row(connection, identifier)

    def prioritize(self, identifier: int, priority: int) -> Job:
        """Set the priority of a job: higher runs first.

        Raises:
            IllegalTransition: the job does not exist.
        """
        with self.database.write() as connection:
            state = self._locked_row(connection, identifier).state
            why = f"priority {priority}"
            record(connection, JOBS, identifier, who=OPERATOR, was=state, becomes=state, why=why)
            connection.execute(
                update(jobs)
                .where(jobs.c.id == identifier)
                .values(priority=priority, updated_at=time_text(now()))
            )
            return self._read_row(connection, identifier)

    def history(self, identifier: int) -> list[HistoryEntry]:
        """The changes of a job, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(JOBS.entries(identifier)).all()
        return [read_entry(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """The number of jobs by state, 0 included."""
        with self.database.read() as connection:
            found = connection.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        return {str(state): 0 for state in JobState} | {state: count for state, count in found}

    def oldest(self, state: JobState) -> datetime | None:
        """When the oldest job in a state was created, None where there is none."""
        with self.database.read() as connection:
            text = connection.execute(
                select(func.min(jobs.c.created_at)).where(jobs.c.state == str(state))
            ).scalar_one_or_none()
        return read_optional_time(text)

    @staticmethod
    def _locked_row(connection: Connection, identifier: int) -> Row[Any]:
        row = connection.execute(select(jobs).where(jobs.c.id == identifier).with_for_update()).one_or_none()
        if row is None:
            raise IllegalTransition(f"There is no job {identifier}.")
        return row

    @staticmethod
    def _read_row(connection: Connection, identifier: int) -> Job:
        return read_job(connection.execute(select(jobs).where(jobs.c.id == identifier)).one())


def read_job(row: Row[Any]) -> Job:
    """A job from its row."""
    return Job(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        revision=row.revision,
        engine=row.engine,
        route=row.route,
        destinations=tuple(json.loads(row.destinations)),
        model_version=row.model_version,
        state=JobState(row.state),
        priority=row.priority,
        attempts=row.attempts,
        reason=row.reason,
        inputs=tuple(json.loads(row.inputs)),
        inputs_digest=row.inputs_digest,
        predecessor_id=row.predecessor_id,
        lease_token=row.lease_token,
        lease_until=read_optional_time(row.lease_until),
        not_before=read_optional_time(row.not_before),
        created_at=read_time(row.created_at),
        updated_at=read_time(row.updated_at),
        started_at=read_optional_time(row.started_at),
        finished_at=read_optional_time(row.finished_at),
        review_advised=row.review_advised,
        summary=None if row.summary is None else json.loads(row.summary),
    )
