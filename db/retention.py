"""Retention: removes the rows of old instances and of delivered results. The caller then deletes their files.

Rows go first. A crash in between leaves files without a row, which the next start clears up, but never a row without
its file.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from itertools import groupby
from operator import attrgetter

from sqlalchemy import delete, exists, or_, select, update

from db.database import Database, time_text
from db.states import DeliveryState, JobState, StudyState
from db.tables import deliveries, instances, jobs, results, studies

UNFINISHED = (str(JobState.QUEUED), str(JobState.RUNNING), str(JobState.WAITING))
UNDELIVERED = (str(DeliveryState.PENDING), str(DeliveryState.SENDING), str(DeliveryState.FAILED))
STUDIES_PER_TRANSACTION = 100
ROWS_PER_TRANSACTION = 500


class Retention:
    """Removes rows by age. Quarantined objects, jobs and their history are kept for ever."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def forget_received(self, before: datetime) -> list[str]:
        """Remove instances of complete studies without unfinished jobs whose last instance came before a moment.

        Returns:
            The files of the removed instances, relative to the data folder. Some at a time: empty when there are no
            more.
        """
        unfinished_jobs = exists().where(
            jobs.c.study_instance_uid == studies.c.study_instance_uid, jobs.c.state.in_(UNFINISHED)
        )
        old = select(studies.c.study_instance_uid).where(
            studies.c.state == str(StudyState.COMPLETE),
            studies.c.last_instance_at < time_text(before),
            ~unfinished_jobs,
        )
        has_instances = exists().where(instances.c.study_instance_uid == studies.c.study_instance_uid)
        # This reads all studies, so it must not hold the write lock.
        with self.database.read() as connection:
            uids = connection.execute(old.where(has_instances).limit(STUDIES_PER_TRANSACTION)).scalars().all()
        if not uids:
            return []
        with self.database.write() as connection:
            rows = connection.execute(
                select(instances.c.id, instances.c.path, instances.c.size, instances.c.study_instance_uid)
                .where(instances.c.study_instance_uid.in_(old.where(studies.c.study_instance_uid.in_(uids))))
                .limit(ROWS_PER_TRANSACTION)
            ).all()
            connection.execute(delete(instances).where(instances.c.id.in_([row.id for row in rows])))
            by_study = attrgetter("study_instance_uid")
            for uid, removed in groupby(sorted(rows, key=by_study), key=by_study):
                sizes = [row.size for row in removed]
                connection.execute(
                    update(studies)
                    .where(studies.c.study_instance_uid == uid)
                    .values(
                        instance_count=studies.c.instance_count - len(sizes),
                        instance_bytes=studies.c.instance_bytes - sum(sizes),
                    )
                )
        return [row.path for row in rows]

    def forget_results(self, before: datetime, committing: Collection[str] = ()) -> list[str]:
        """Remove results that were made before a moment and that every destination has.

        Args:
            before: the moment.
            committing: destinations that have a result only once they have committed to it; for the others it is
                enough that they accepted it.

        Returns:
            The files of the removed results, relative to the data folder. Some at a time: empty when there are no more.
        """
        undelivered = exists().where(
            deliveries.c.result_id == results.c.id,
            or_(
                deliveries.c.state.in_(UNDELIVERED),
                (deliveries.c.state == str(DeliveryState.SENT)) & deliveries.c.destination.in_(committing),
            ),
        )
        old = select(results.c.id, results.c.path).where(
            results.c.created_at < time_text(before), ~undelivered
        )
        # As above, without the write lock.
        with self.database.read() as connection:
            found = [row.id for row in connection.execute(old.limit(ROWS_PER_TRANSACTION))]
        if not found:
            return []
        with self.database.write() as connection:
            rows = connection.execute(old.where(results.c.id.in_(found))).all()
            identifiers = [row.id for row in rows]
            connection.execute(delete(deliveries).where(deliveries.c.result_id.in_(identifiers)))
            connection.execute(delete(results).where(results.c.id.in_(identifiers)))
        return [row.path for row in rows]
