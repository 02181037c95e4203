"""What is kept no longer: rows of old instances and of delivered results. The caller then deletes their files.

Rows go first: a crash in between leaves files that no row knows, which the start-up check finds, never a row
without its file.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime

from sqlalchemy import delete, exists, or_, select

from db.database import Database, time_text
from db.states import DeliveryState, JobState
from db.tables import deliveries, instances, jobs, results, studies

LIVE = (str(JobState.QUEUED), str(JobState.RUNNING), str(JobState.WAITING))
UNDELIVERED = (str(DeliveryState.PENDING), str(DeliveryState.SENDING), str(DeliveryState.FAILED))
ROWS_AT_ONCE = 1000


class Retention:
    """Removes by age. Quarantined objects, jobs and their history are never removed."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def forget_received(self, before: datetime) -> list[str]:
        """Remove instances of studies whose last one came earlier and whose jobs have all ended; their files."""
        busy = exists().where(
            jobs.c.study_instance_uid == studies.c.study_instance_uid, jobs.c.state.in_(LIVE)
        )
        old = select(studies.c.study_instance_uid).where(
            studies.c.state != "receiving", studies.c.last_instance_at < time_text(before), ~busy
        )
        with self.database.write() as connection:
            rows = connection.execute(
                select(instances.c.id, instances.c.path)
                .where(instances.c.study_instance_uid.in_(old))
                .limit(ROWS_AT_ONCE)
            ).all()
            connection.execute(delete(instances).where(instances.c.id.in_([row.id for row in rows])))
        return [row.path for row in rows]

    def forget_results(self, before: datetime, committing: Collection[str] = ()) -> list[str]:
        """Remove results made earlier that every destination has; their files.

        A destination of ``committing`` has a result when it took responsibility, others when they have answered.
        """
        undelivered = exists().where(
            deliveries.c.result_id == results.c.id,
            or_(
                deliveries.c.state.in_(UNDELIVERED),
                (deliveries.c.state == str(DeliveryState.SENT)) & deliveries.c.destination.in_(committing),
            ),
        )
        with self.database.write() as connection:
            rows = connection.execute(
                select(results.c.id, results.c.path)
                .where(results.c.created_at < time_text(before), ~undelivered)
                .limit(ROWS_AT_ONCE)
            ).all()
            identifiers = [row.id for row in rows]
            connection.execute(delete(deliveries).where(deliveries.c.result_id.in_(identifiers)))
            connection.execute(delete(results).where(results.c.id.in_(identifiers)))
        return [row.path for row in rows]
