"""The outbox: each result on its way to each destination, until the destination has said that it has it."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, select, update

from db.database import Database, now, time_text
from db.records import Delivery, DeliveryOutcome, DeliveryRetry, DeliverySummary, HistoryEntry, Sent
from db.states import DeliveryEvent, DeliveryState
from db.tables import deliveries, history, results
from db.transitions import DELIVERIES, NO_LEASE, OPERATOR, change, read_entry

AT_ONCE = 200
"""So many rows are changed in one transaction: others wait to write meanwhile."""
LEAST_ADVANCED_FIRST = (
    DeliveryState.FAILED,
    DeliveryState.PENDING,
    DeliveryState.SENDING,
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
)


class Outbox:
    """Deliveries and their life. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def destinations_due(self, moment: datetime) -> list[str]:
        """The destinations that something is due for."""
        with self.database.read() as connection:
            return list(
                connection.execute(
                    select(deliveries.c.destination)
                    .where(DELIVERIES.due(DeliveryState.PENDING, moment))
                    .distinct()
                ).scalars()
            )

    def claim(self, destination: str, sender: str, limit: int, lease_seconds: float) -> list[Delivery]:
        """Take up to ``limit`` due deliveries to one destination, oldest first, a job's report before its pictures."""
        moment = now()
        if destination not in self.destinations_due(moment):
            return []
        with self.database.write() as connection:
            rows = connection.execute(
                select(deliveries.c.id, deliveries.c.attempts)
                .where(DELIVERIES.due(DeliveryState.PENDING, moment))
                .where(deliveries.c.destination == destination)
                .order_by(deliveries.c.id)
                .limit(limit)
                .with_for_update(skip_locked=True)
            ).all()
            for row in rows:
                change(
                    connection,
                    DELIVERIES,
                    row.id,
                    DeliveryState.PENDING,
                    DeliveryEvent.CLAIM,
                    who=sender,
                    why=f"attempt {row.attempts + 1}",
                    values={
                        "owner": sender,
                        "lease_token": uuid.uuid4().hex,
                        "lease_until": time_text(moment + timedelta(seconds=lease_seconds)),
                        "attempts": row.attempts + 1,
                        "not_before": None,
                    },
                )
            claimed = connection.execute(
                _joined().where(deliveries.c.id.in_([row.id for row in rows])).order_by(deliveries.c.id)
            ).all()
        return [_read(row) for row in claimed]

    def settle(self, delivery: Delivery, outcome: DeliveryOutcome) -> None:
        """Apply what sending one object came to.

        Raises:
            StaleLease: the delivery is no longer held by the caller.
        """
        values: dict[str, Any] = {**NO_LEASE, "last_status": outcome.status}
        if isinstance(outcome, Sent):
            event, why = DeliveryEvent.SENT, f"status {outcome.status:04X}"
            values["reason"] = None if outcome.status == 0 else f"warning {outcome.status:04X}"
        elif isinstance(outcome, DeliveryRetry):
            event, why = DeliveryEvent.RETRY_LATER, outcome.reason
            values |= {
                "reason": outcome.reason,
                "not_before": time_text(now() + timedelta(seconds=outcome.seconds)),
            }
        else:
            event, why = DeliveryEvent.FAIL, outcome.reason
            values["reason"] = outcome.reason
        with self.database.write() as connection:
            change(
                connection,
                DELIVERIES,
                delivery.id,
                DeliveryState.SENDING,
                event,
                who="courier",
                why=why,
                lease_token=delivery.lease_token,
                values=values,
            )

    def of_job(self, job_id: int) -> list[DeliverySummary]:
        """A job's deliveries by destination; the state is the least advanced, failed above all."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.id)
            ).all()
        by_destination: dict[str, list[Row[Any]]] = {}
        for row in rows:
            by_destination.setdefault(row.destination, []).append(row)
        return [_summary(destination, group) for destination, group in by_destination.items()]

    def reclaim_expired(self, moment: datetime) -> int:
        """Give deliveries back whose lease ran out; how many there were."""
        expired = (deliveries.c.state == "sending") & (deliveries.c.lease_until < time_text(moment))
        return self._again(
            expired, DeliveryState.SENDING, DeliveryEvent.LEASE_LOST, "ticker", "its lease ran out", {}
        )

    def release_sender(self, sender: str, why: str = "its sender died") -> int:
        """Give back what a sender still holds and does not send; how many there were."""
        held = (deliveries.c.state == "sending") & (deliveries.c.owner == sender)
        return self._again(held, DeliveryState.SENDING, DeliveryEvent.LEASE_LOST, sender, why, {})

    def retry(self, job_id: int | None = None, destination: str | None = None) -> int:
        """Send failed deliveries again and delayed ones at once, of a job, to a destination or all; how many."""
        which: list[ColumnElement[bool]] = []
        if job_id is not None:
            which.append(deliveries.c.job_id == job_id)
        if destination is not None:
            which.append(deliveries.c.destination == destination)
        failed = self._again(
            and_(deliveries.c.state == str(DeliveryState.FAILED), *which),
            DeliveryState.FAILED,
            DeliveryEvent.RETRY,
            OPERATOR,
            "by hand",
            {"not_before": None},
        )
        with self.database.write() as connection:
            delayed = connection.execute(
                update(deliveries)
                .where(deliveries.c.state == str(DeliveryState.PENDING), *which)
                .where(deliveries.c.not_before > time_text(now()))
                .values(not_before=None)
            ).rowcount
        return failed + delayed

    def _again(
        self, which: Any, was: DeliveryState, event: DeliveryEvent, who: str, why: str, values: dict[str, Any]
    ) -> int:
        with self.database.read() as connection:
            if connection.execute(select(deliveries.c.id).where(which).limit(1)).one_or_none() is None:
                return 0
        changed = 0
        while True:
            with self.database.write() as connection:
                rows = connection.execute(
                    select(deliveries.c.id).where(which).limit(AT_ONCE).with_for_update(skip_locked=True)
                ).all()
                for row in rows:
                    change(
                        connection,
                        DELIVERIES,
                        row.id,
                        was,
                        event,
                        who=who,
                        why=why,
                        values={**NO_LEASE, **values},
                    )
            changed += len(rows)
            if len(rows) < AT_ONCE:
                return changed

    def history(self, job_id: int) -> list[tuple[str, HistoryEntry]]:
        """What happened to a job's deliveries, oldest first, each with its destination."""
        of_job = select(deliveries.c.id, deliveries.c.destination).where(deliveries.c.job_id == job_id)
        # A join would go through the history of all deliveries.
        subjects = history.c.subject_id.in_(of_job.with_only_columns(deliveries.c.id))
        with self.database.read() as connection:
            destinations = {identifier: destination for identifier, destination in connection.execute(of_job)}
            rows = connection.execute(
                select(history)
                .where(history.c.subject == DELIVERIES.subject, subjects)
                .order_by(history.c.id)
            ).all()
        return [(destinations[row.subject_id], read_entry(row)) for row in rows]

    def counts(self) -> dict[tuple[str, str], int]:
        """The number of deliveries by destination and state."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
                    deliveries.c.destination, deliveries.c.state
                )
            ).all()
        return {(destination, state): count for destination, state, count in rows}


def _joined() -> Any:
    return select(
        deliveries.c.id,
        deliveries.c.job_id,
        deliveries.c.destination,
        deliveries.c.state,
        deliveries.c.attempts,
        deliveries.c.lease_token,
        results.c.kind,
        results.c.patient_id,
        results.c.study_instance_uid,
        results.c.sop_class_uid,
        results.c.sop_instance_uid,
        results.c.transfer_syntax_uid,
        results.c.path,
    ).join(results, results.c.id == deliveries.c.result_id)


def _read(row: Row[Any]) -> Delivery:
    return Delivery(
        id=row.id,
        job_id=row.job_id,
        destination=row.destination,
        state=DeliveryState(row.state),
        attempts=row.attempts,
        lease_token=row.lease_token,
        kind=row.kind,
        patient_id=row.patient_id,
        study_instance_uid=row.study_instance_uid,
        sop_class_uid=row.sop_class_uid,
        sop_instance_uid=row.sop_instance_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        path=row.path,
    )


def _summary(destination: str, rows: Sequence[Row[Any]]) -> DeliverySummary:
    worst = min(rows, key=lambda row: LEAST_ADVANCED_FIRST.index(DeliveryState(row.state)))
    status = worst.last_status
    return DeliverySummary(
        destination=destination,
        state=DeliveryState(worst.state),
        attempts=max(row.attempts for row in rows),
        last_status=None if status is None else f"{status:04X}",
        reason=worst.reason,
    )
