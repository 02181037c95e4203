"""Plans: create and supersede the jobs of a study until they match what its rules ask for, in one transaction."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection, Row, insert, select

from db.database import Database, now, time_text
from db.job_rows import read_job
from db.records import Job, PlannedJob
from db.states import JobEvent, JobState, StudyEvent, StudyState
from db.tables import flow_of, instances, jobs, studies
from db.transitions import JOBS, NO_LEASE, OPERATOR, STUDIES, change, record

CAME_TOO_LATE = (
    "images arrived after those of this job were removed by age: the new ones alone are not analysed"
)
PLANNER = "planner"
LIVE = tuple(str(state) for state in JobState if state is not JobState.SUPERSEDED)
_JobKey = tuple[str, str | None]
"""Series Instance UID and engine of a job."""


class Plans:
    """Turns plans into jobs. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def complete_study(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob]
    ) -> list[Job] | None:
        """Mark a study complete and make its jobs match the plan.

        A live job is one that is not superseded. A planned job with the series, engine and inputs of a live job
        changes nothing. Any other planned job is created in the next revision, and supersedes the live job of its
        series and engine, if there is one. Live jobs that are not in the plan are superseded.

        Retention may have removed inputs of a job that succeeded. Such a job stays as it is, because the plan was
        made without them.

        Args:
            study_instance_uid: a study that is being received.
            instance_count: how many instances the plan was made from.
            plan: all jobs that the study needs.

        Returns:
            The new jobs, or None if another instance has arrived since: plan again.
        """
        return self._apply_plan(study_instance_uid, instance_count, plan, rerun=False)

    def reprocess(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob]
    ) -> list[Job] | None:
        """As ``complete_study``, for a study that is complete: every planned job runs again.

        Returns:
            The new jobs, or None if the study is not complete or another instance has arrived since.
        """
        return self._apply_plan(study_instance_uid, instance_count, plan, rerun=True)

    def _apply_plan(
        self, study_instance_uid: str, instance_count: int, plan: Sequence[PlannedJob], *, rerun: bool
    ) -> list[Job] | None:
        with self.database.write() as connection:
            study = connection.execute(
                select(studies).where(studies.c.study_instance_uid == study_instance_uid).with_for_update()
            ).one_or_none()
            who, expected, event = PLANNER, StudyState.RECEIVING, StudyEvent.COMPLETE
            if rerun:
                who, expected, event = OPERATOR, StudyState.COMPLETE, StudyEvent.REPROCESS
            if study is None or study.state != expected or study.instance_count != instance_count:
                return None
            live = {
                (row.series_instance_uid, row.engine): row
                for row in connection.execute(
                    select(jobs)
                    .where(jobs.c.study_instance_uid == study_instance_uid, jobs.c.state.in_(LIVE))
                    # Workers settle several jobs at once: whoever locks several does it in this order.
                    .order_by(jobs.c.id)
                    .with_for_update()
                )
            }
            without_inputs = _without_inputs(connection, study_instance_uid, live) if live else set()
            planned = {(p.series_instance_uid, p.engine): p for p in plan}
            for key in without_inputs & planned.keys():
                state = live[key].state
                record(connection, JOBS, live[key].id, who=who, was=state, becomes=state, why=CAME_TOO_LATE)
            to_create = [
                p
                for key, p in planned.items()
                if key not in without_inputs and (rerun or not _unchanged(live.get(key), p))
            ]
            revision = study.revision + bool(to_create)
            for key, row in live.items():
                if key not in planned and key not in without_inputs:
                    why = "the study or its rules changed and no longer ask for this job"
                    _supersede(connection, row, who, why)
            created = [_insert_job(connection, who, study_instance_uid, revision, p, live) for p in to_create]
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


def _without_inputs(
    connection: Connection, study_instance_uid: str, live: Mapping[_JobKey, Row[Any]]
) -> set[_JobKey]:
    """The live jobs that succeeded on inputs which retention has removed."""
    present = set(
        connection.execute(
            select(instances.c.sop_instance_uid).where(instances.c.study_instance_uid == study_instance_uid)
        ).scalars()
    )
    return {
        key
        for key, row in live.items()
        if row.state == str(JobState.SUCCEEDED) and not present.issuperset(json.loads(row.inputs))
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


def _insert_job(
    connection: Connection,
    who: str,
    study: str,
    revision: int,
    planned: PlannedJob,
    live: Mapping[_JobKey, Row[Any]],
) -> int:
    predecessor = live.get((planned.series_instance_uid, planned.engine))
    if predecessor is not None:
        _supersede(connection, predecessor, who, f"revision {revision} of the study takes its place")
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
            input_bytes=planned.input_bytes,
            flow=flow_of(planned.source, planned.route),
            weight=planned.weight,
            predecessor_id=None if predecessor is None else predecessor.id,
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
