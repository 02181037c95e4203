"""The outbox: one delivery for each result and destination, kept until the destination confirms the result."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, func, select, update

from db.database import Database, now, time_text
from db.errors import StaleLease
from db.records import Delivery, DeliveryOutcome, DeliveryRetry, DeliverySummary, HistoryEntry, Sent
from db.states import DeliveryEvent, DeliveryState
from db.tables import deliveries, history, jobs, results
from db.transitions import DELIVERIES, NO_LEASE, OPERATOR, change, read_entry

ROWS_PER_TRANSACTION = 200
"""Rows changed in one transaction: others wait to write meanwhile."""
LEAST_ADVANCED_FIRST = (
    DeliveryState.FAILED,
    DeliveryState.PENDING,
    DeliveryState.SENDING,
    DeliveryState.SENT,
    DeliveryState.COMMITTED,
)

URGENT_FIRST = (jobs.c.priority.desc(), deliveries.c.id)
"""The order in which deliveries are sent."""


class Outbox:
    """The deliveries of all results. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def claim(self, destination: str, sender: str, limit: int, lease_seconds: float) -> list[Delivery]:
        """Claim up to ``limit`` due deliveries to one destination under a lease.

        Args:
            destination: its name in the configuration.
            sender: the name of the claiming process.
            limit: at most so many.
            lease_seconds: how long nobody else gets them.

        Returns:
            The deliveries: those of jobs of higher priority first, then the oldest, a job's report before its pictures.
        """
        moment = now()
        due = (
            select(deliveries.c.id, deliveries.c.attempts)
            .join(jobs, jobs.c.id == deliveries.c.job_id)
            .where(DELIVERIES.due(DeliveryState.PENDING, moment), deliveries.c.destination == destination)
            .order_by(*URGENT_FIRST)
            .limit(limit)
        )
        with self.database.read() as connection:
            # Most often nothing is due, and with many that wait the search takes longer than a writer should.
            found = [row.id for row in connection.execute(due)]
        if not found:
            return []
        with self.database.write() as connection:
            rows = connection.execute(
                select(deliveries.c.id, deliveries.c.attempts)
                .where(deliveries.c.id.in_(found), DELIVERIES.due(DeliveryState.PENDING, moment))
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
                _select_deliveries()
                .join(jobs, jobs.c.id == deliveries.c.job_id)
                .where(deliveries.c.id.in_([row.id for row in rows]))
                .order_by(*URGENT_FIRST)
            ).all()
        return [_read_delivery(row) for row in claimed]

    def settle(self, outcomes: Sequence[tuple[Delivery, DeliveryOutcome]]) -> list[Delivery]:
        """Record the outcomes of sending objects, in one transaction.

        Returns:
            The deliveries that the caller no longer holds; their rows are left as they are.
        """
        stale: list[Delivery] = []
        with self.database.write() as connection:
            for delivery, outcome in outcomes:
                event, why, values = _settled(outcome)
                try:
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
                except StaleLease:
                    stale.append(delivery)
        return stale

    def of_job(self, job_id: int) -> list[DeliverySummary]:
        """A job's deliveries, summed up by destination. Failed counts as the least advanced state."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(deliveries).where(deliveries.c.job_id == job_id).order_by(deliveries.c.id)
            ).all()
        by_destination: dict[str, list[Row[Any]]] = {}
        for row in rows:
            by_destination.setdefault(row.destination, []).append(row)
        return [_summarise(destination, group) for destination, group in by_destination.items()]

    def reclaim_expired(self, moment: datetime) -> int:
        """Make deliveries pending again whose lease ran out; returns how many."""
        expired = (deliveries.c.state == "sending") & (deliveries.c.lease_until < time_text(moment))
        return self._change_all(
            expired, DeliveryState.SENDING, DeliveryEvent.LEASE_LOST, "ticker", "its lease ran out", {}
        )

    def release_sender(self, sender: str, why: str = "its sender died") -> int:
        """Make all deliveries pending again that a sender holds; returns how many."""
        held = (deliveries.c.state == "sending") & (deliveries.c.owner == sender)
        return self._change_all(held, DeliveryState.SENDING, DeliveryEvent.LEASE_LOST, sender, why, {})

    def retry(self, job_id: int | None = None, destination: str | None = None) -> int:
        """Make failed and delayed deliveries due now; returns how many.

        Args:
            job_id: only those of this job.
            destination: only those to this destination.
        """
        which: list[ColumnElement[bool]] = []
        if job_id is not None:
            which.append(deliveries.c.job_id == job_id)
        if destination is not None:
            which.append(deliveries.c.destination == destination)
        failed = self._change_all(
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

    def _change_all(
        self, which: Any, was: DeliveryState, event: DeliveryEvent, who: str, why: str, values: dict[str, Any]
    ) -> int:
        with self.database.read() as connection:
            if connection.execute(select(deliveries.c.id).where(which).limit(1)).one_or_none() is None:
                return 0
        changed = 0
        while True:
            with self.database.write() as connection:
                rows = connection.execute(
                    select(deliveries.c.id)
                    .where(which)
                    .limit(ROWS_PER_TRANSACTION)
                    .with_for_update(skip_locked=True)
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
            if len(rows) < ROWS_PER_TRANSACTION:
                return changed

    def history(self, job_id: int) -> list[tuple[str, HistoryEntry]]:
        """The changes of a job's deliveries as (destination, entry), oldest first."""
        of_job = select(deliveries.c.id, deliveries.c.destination).where(deliveries.c.job_id == job_id)
        # A join would scan the history of all deliveries.
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


def _settled(outcome: DeliveryOutcome) -> tuple[DeliveryEvent, str, dict[str, Any]]:
    """What an outcome does to its delivery: the event, the reason in the history, the columns to set."""
    values: dict[str, Any] = {**NO_LEASE, "last_status": outcome.status}
    if isinstance(outcome, Sent):
        values["reason"] = None if outcome.status == 0 else f"warning {outcome.status:04X}"
        return DeliveryEvent.SENT, f"status {outcome.status:04X}", values
    values["reason"] = outcome.reason
    if isinstance(outcome, DeliveryRetry):
        values["not_before"] = time_text(now() + timedelta(seconds=outcome.seconds))
        return DeliveryEvent.RETRY_LATER, outcome.reason, values
    return DeliveryEvent.FAIL, outcome.reason, values


def _select_deliveries() -> Any:
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


def _read_delivery(row: Row[Any]) -> Delivery:
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


def _summarise(destination: str, rows: Sequence[Row[Any]]) -> DeliverySummary:
    least_advanced = min(rows, key=lambda row: LEAST_ADVANCED_FIRST.index(DeliveryState(row.state)))
    status = least_advanced.last_status
    return DeliverySummary(
        destination=destination,
        state=DeliveryState(least_advanced.state),
        attempts=max(row.attempts for row in rows),
        last_status=None if status is None else f"{status:04X}",
        reason=least_advanced.reason,
    )
