"""The queue: workers claim jobs under a lease and settle each with its outcome."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Row, exists, func, select, update

from db import claiming
from db.database import MAX_PARAMETERS, Database, now, read_optional_time, time_text
from db.errors import Contended, DatabaseUnavailable, IllegalTransition, StaleLease
from db.job_rows import read_job
from db.records import Failed, HistoryEntry, Job, Outcome
from db.settling import record_outcomes, requeue
from db.states import DeliveryState, JobEvent, JobState
from db.tables import deliveries, jobs
from db.transitions import JOBS, NO_LEASE, OPERATOR, Change, change, change_all, read_entry, record
from db.turns import Turns

log = logging.getLogger("overread.queue")


class Queue:
    """All jobs. Thread-safe.

    Whose turn it is to be claimed is known to each object by itself: where each of several workers is fair, all are.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        self._turns = Turns()
        self._claiming = threading.Lock()

    def claim(
        self,
        worker: str,
        engines: Sequence[str],
        limit: int,
        lease_seconds: float,
        *,
        most_bytes: int | None = None,
        urgent_over: int | None = None,
    ) -> list[Job]:
        """Claim due jobs of one engine and priority under a lease.

        The highest priority comes first. Within it the flow whose turn it is decides the engine (``db.turns``), and
        all flows of that engine fill the claim in their turns, each with its oldest jobs first. A job that was claimed
        before without success is claimed alone.

        Args:
            worker: the name of the claiming process.
            engines: the engines that it has.
            limit: at most so many jobs.
            lease_seconds: how long nobody else gets them.
            most_bytes: at most so many bytes of inputs together, but always one job.
            urgent_over: only jobs with a priority above this one.
        """
        if not engines or limit < 1:
            return []
        # Turns are taken one after the other, and count once the claim is on disk.
        with self._claiming:
            with self.database.read() as connection:
                # Without the write lock, so that idle workers disturb nobody.
                due = claiming.due(connection, engines, now())
            if due.priority is None:
                self._turns.nothing_waits(engines)
            urgent = due.priority is not None and (urgent_over is None or due.priority > urgent_over)
            if not urgent and not due.ripe:
                return []
            with self.database.write() as connection:
                moment = now()
                if due.ripe:
                    claiming.make_ready(connection, moment)
                choice = claiming.choose(
                    connection,
                    self._turns,
                    engines,
                    moment,
                    limit=limit,
                    most_bytes=most_bytes,
                    urgent_over=urgent_over,
                )
                if choice is None:
                    return []
                claimed = claiming.take(connection, choice, worker, moment, lease_seconds)
            self._turns.serve(choice.priority, choice.present, choice.starts)
        return claimed

    def measured(self, done: Sequence[Job], seconds: float) -> None:
        """Say how long one engine needed for jobs together, so that its turns cost what they take.

        Without it, an engine is taken to need the same time for each byte as any other. What counts is that all
        engines of a worker are measured alike; other processes do not hear of it.
        """
        if done:
            self._turns.measured(str(done[0].engine), sum(job.input_bytes for job in done), seconds)

    def renew(self, held: Sequence[Job], lease_seconds: float) -> None:
        """Extend the leases of jobs.

        Raises:
            StaleLease: one of them is no longer held; the others were renewed.
        """
        until = time_text(now() + timedelta(seconds=lease_seconds))
        renewed = 0
        with self.database.write() as connection:
            for start in range(0, len(held), MAX_PARAMETERS // 2):
                some = held[start : start + MAX_PARAMETERS // 2]
                # No two leases have the same token.
                ours = jobs.c.id.in_([job.id for job in some]) & jobs.c.lease_token.in_(
                    [job.lease_token for job in some]
                )
                renewed += connection.execute(
                    update(jobs).where(ours, jobs.c.state == str(JobState.RUNNING)).values(lease_until=until)
                ).rowcount
        if renewed < len(held):
            raise StaleLease(f"{len(held) - renewed} of {len(held)} jobs are no longer held.")

    def settle(self, job: Job, outcome: Outcome) -> None:
        """As ``settle_all``, for one job.

        Raises:
            StaleLease: the job is no longer held by the caller; nothing was recorded.
        """
        if self.settle_all([(job, outcome)]):
            raise StaleLease(f"Job {job.id} is no longer held by this process.")

    def settle_all(self, settled: Sequence[tuple[Job, Outcome]]) -> list[Job]:
        """Record the outcomes of jobs, with their results and deliveries, in one transaction.

        If one of them cannot be recorded, each gets a transaction of its own, and the job at fault fails with that as
        its reason.

        Returns:
            The jobs that are no longer held by the caller. Nothing was recorded of them.

        Raises:
            Contended: another process wrote the same rows; the others were recorded.
            DatabaseUnavailable: the database is locked or does not answer.
        """
        if not settled:
            return []
        try:
            return self._record(settled)
        except Contended:
            log.info("settled_one_by_one jobs=%d reason=contended", len(settled))
        except DatabaseUnavailable:
            raise
        except Exception as fault:
            # An engine made these values, so any of them may be wrong in any way.
            log.warning("settled_one_by_one jobs=%d reason=%s", len(settled), type(fault).__name__)
        stale: list[Job] = []
        contended: Contended | None = None
        for job, outcome in settled:
            try:
                stale += self._record([(job, outcome)])
            except Contended as error:
                contended = error
            except DatabaseUnavailable:
                raise
            except Exception as fault:
                name = type(fault).__name__
                log.error("outcome_not_recorded job=%d error=%s", job.id, name)
                reason = f"its outcome cannot be recorded ({name}): see the log"
                stale += self._record([(job, Failed(reason=reason))])
        if contended is not None:
            raise contended
        return stale

    def _record(self, settled: Sequence[tuple[Job, Outcome]]) -> list[Job]:
        with self.database.write() as connection:
            return record_outcomes(connection, settled)

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
            return requeue(connection, which, reason, who, blameless=blameless)

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
            woken = [
                Change(
                    identifier=row.id,
                    event=JobEvent.WAKE,
                    who="worker",
                    why="the model is there",
                    values={"reason": None},
                )
                for row in rows
            ]
            change_all(connection, JOBS, JobState.WAITING, woken)
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
