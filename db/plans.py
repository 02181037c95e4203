"""Plans: the jobs of a study are brought into line with what its rules ask for, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from db.database import Database, now, time_text
from db.queue import read_job
from db.records import Job, PlannedJob
from db.states import JobEvent, JobState, StudyEvent, StudyState
from db.tables import instances, jobs, studies
from db.transitions import JOBS, NO_LEASE, OPERATOR, STUDIES, change, record

CAME_TOO_LATE = "images came after those of this job were removed by age: not analysed without them"
PLANNER = "planner"
LIVE = tuple(str(state) for state in JobState if state is not JobState.SUPERSEDED)
_Key = tuple[str, str | None]
"""Series and engine of a job."""


class Plans:
    """Turns plans into jobs. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def complete_study(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob]
    ) -> list[Job] | None:
        """Close a study for now and bring its jobs into line with the plan.

        A planned job whose series, engine and inputs equal a live job's changes nothing. Any other one is
        created in the next revision and supersedes the live job of its series and engine, if there is one.
        Live jobs that the plan no longer has are superseded. A job that succeeded on inputs which were removed
        by age since then stays as it is: the plan sees only what came later.

        Returns:
            The new jobs, or None where an instance arrived since the plan was made: plan again.
        """
        return self._apply(study_instance_uid, instance_count, plan, again=False)

    def reprocess(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob]
    ) -> list[Job] | None:
        """As ``complete_study`` for a study that is complete, but what equals a live job runs again as well.

        Returns:
            The new jobs, or None where the study is not complete or an instance arrived since the plan was made.
        """
        return self._apply(study_instance_uid, instance_count, plan, again=True)

    def _apply(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob], *, again: bool
    ) -> list[Job] | None:
        with self.database.write() as connection:
            study = connection.execute(
                select(studies).where(studies.c.study_instance_uid == study_instance_uid).with_for_update()
            ).one_or_none()
            who, expected, event = PLANNER, StudyState.RECEIVING, StudyEvent.COMPLETE
            if again:
                who, expected, event = OPERATOR, StudyState.COMPLETE, StudyEvent.REPROCESS
            if study is None or study.state != expected or study.instance_count != instance_count:
                return None
            live = {
                (row.series_instance_uid, row.engine): row
                for row in connection.execute(
                    select(jobs).where(
                        jobs.c.study_instance_uid == study_instance_uid, jobs.c.state.in_(LIVE)
                    )
                )
            }
            removed = _removed(connection, study_instance_uid, live) if live else set()
            planned = {(p.series_instance_uid, p.engine): p for p in plan}
            for key in removed & planned.keys():
                state = live[key].state
                record(connection, JOBS, live[key].id, who=who, was=state, becomes=state, why=CAME_TOO_LATE)
            fresh = [
                p
                for key, p in planned.items()
                if key not in removed and (again or not _unchanged(live.get(key), p))
            ]
            revision = study.revision + bool(fresh)
            for key, row in live.items():
                if key not in planned and key not in removed:
                    why = "the study or its rules changed and no longer ask for this job"
                    _supersede(connection, row, who, why)
            created = [_insert(connection, who, study_instance_uid, revision, p, live) for p in fresh]
            change(
                connection,
                STUDIES,
                study_instance_uid,
                expected,
                event,
                who=who,
                why=f"{instance_count} instances, {len(created)} new jobs",
                values={"revision": revision},
            )
            return [
                read_job(connection.execute(select(jobs).where(jobs.c.id == identifier)).one())
                for identifier in created
            ]


def _removed(connection: Connection, study_instance_uid: str, live: Mapping[_Key, Row[Any]]) -> set[_Key]:
    """The jobs that succeeded on inputs which are no longer there; instances go only by age."""
    held = set(
        connection.execute(
            select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == study_instance_uid)
        ).scalars()
    )
    return {
        key
        for key, row in live.items()
        if row.state == str(JobState.SUCCEEDED) and not held.issuperset(json.loads(row.inputs))
    }


def _unchanged(row: Row[Any] | None, planned: PlannedJob) -> bool:
    return row is not None and row.inputs_digest == planned.inputs_digest


def _supersede(connection: Connection, row: Row[Any], who: str, why: str) -> None:
    change(
        connection,
        JOBS,
        row.id,
        JobState(row.state),
        JobEvent.SUPERSEDE,
        who=who,
        why=why,
        values=NO_LEASE,
    )


def _insert(
    connection: Connection,
    who: str,
    study: str,
    revision: int,
    planned: PlannedJob,
    live: Mapping[_Key, Row[Any]],
) -> int:
    former = live.get((planned.series_instance_uid, planned.engine))
    if former is not None:
        _supersede(connection, former, who, f"revision {revision} of the study takes its place")
    moment = time_text(now())
    state = JobState.SKIPPED if planned.skip_reason else JobState.QUEUED
    identifier: int = connection.execute(
        insert(jobs)
        .values(
            study_instance_uid=study,
            series_instance_uid=planned.series_instance_uid,
            revision=revision,
            engine=planned.engine,
            route=planned.route,
            destinations=json.dumps(planned.destinations),
            state=str(state),
            priority=planned.priority,
            attempts=0,
            reason=planned.skip_reason,
            inputs=json.dumps(planned.inputs),
            inputs_digest=planned.inputs_digest,
            predecessor_id=None if former is None else former.id,
            created_at=moment,
            updated_at=moment,
            finished_at=moment if planned.skip_reason else None,
            review_advised=False,
        )
        .returning(jobs.c.id)
    ).scalar_one()
    why = planned.skip_reason or f"rule {planned.route}"
    record(connection, JOBS, identifier, who=who, was=None, becomes=str(state), why=why)
    return identifier
