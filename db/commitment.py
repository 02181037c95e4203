"""Storage commitment: what we asked destinations to take responsibility for, and what peers asked of us.

A due time stands in for a lease: whoever takes a row moves its time on, so that it comes back by itself
when nothing is heard of it, also after a crash.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from db.database import PARAMETERS, Database, now, read_time, time_text
from db.records import CommitmentRequest, OwedReport, Reference
from db.retry import COMMITMENT
from db.states import DeliveryEvent, DeliveryState, ReportEvent, ReportState
from db.tables import commitment_reports, commitments, deliveries, results
from db.transitions import DELIVERIES, REPORTS, change, record

NO_ANSWER_YET = "storage commitment was asked for, no answer yet"
RESEND_SECONDS = 60.0
MAXIMUM_ATTEMPTS = 10
"""So often an object is sent that the destination then does not commit to."""
PERMANENT_REASONS = {
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
}
"""Failure Reason (0008,1197), PS3.3 section C.14.1.1, where sending again cannot help."""
OTHER_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


class Commitments:
    """What we ask destinations for. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def ask(self, destination: str, limit: int) -> CommitmentRequest | None:
        """A new request over results that were sent to a destination and are due to be asked for, or None.

        It is recorded before it goes out. Without an answer the same results become due again: after a
        minute, then twice as long each time, at most an hour.
        """
        moment = now()
        due = (
            select(deliveries.c.id, deliveries.c.commitment_attempts)
            .add_columns(results.c.sop_class_uid, results.c.sop_instance_uid)
            .join(results, results.c.id == deliveries.c.result_id)
            .where(DELIVERIES.due(DeliveryState.SENT, moment), deliveries.c.destination == destination)
            .order_by(deliveries.c.id)
            .limit(limit)
        )
        with self.database.read() as connection:
            if connection.execute(due.limit(1)).one_or_none() is None:
                return None
        with self.database.write() as connection:
            rows = connection.execute(due.with_for_update(skip_locked=True, of=deliveries)).all()
            if not rows:
                return None
            request = CommitmentRequest(
                transaction_uid=f"2.25.{uuid.uuid4().int}",
                destination=destination,
                references=tuple(
                    Reference(sop_class_uid=row.sop_class_uid, sop_instance_uid=row.sop_instance_uid)
                    for row in rows
                ),
                delivery_ids=tuple(row.id for row in rows),
            )
            tried = max(row.commitment_attempts for row in rows)
            patience = COMMITMENT.pause(tried + 1)
            connection.execute(
                insert(commitments).values(
                    transaction_uid=request.transaction_uid,
                    destination=destination,
                    asked_at=time_text(moment),
                )
            )
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(request.delivery_ids))
                .values(
                    not_before=time_text(moment + timedelta(seconds=patience)),
                    commitment_attempts=deliveries.c.commitment_attempts + 1,
                    reason=NO_ANSWER_YET,
                )
            )
        return request

    def not_asked(self, request: CommitmentRequest, reason: str) -> None:
        """Note why a request did not reach the destination, or was refused; it is made again when due."""
        with self.database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(request.delivery_ids), deliveries.c.state == "sent")
                .values(reason=reason)
            )

    def destination_of(self, transaction_uid: str) -> str | None:
        """Whom a transaction was opened with, None for one that is not ours."""
        with self.database.read() as connection:
            return connection.execute(
                select(commitments.c.destination).where(commitments.c.transaction_uid == transaction_uid)
            ).scalar_one_or_none()

    def reported(
        self, transaction_uid: str, committed: Sequence[Reference], failed: Mapping[Reference, int]
    ) -> bool:
        """Apply a destination's report; False for a transaction that is not ours.

        ``failed`` has the Failure Reason. Those results are sent again, or given up where that cannot help.
        """
        with self.database.write() as connection:
            destination = connection.execute(
                select(commitments.c.destination).where(commitments.c.transaction_uid == transaction_uid)
            ).scalar_one_or_none()
            if destination is None:
                return False
            for delivery, _, _ in _sent(connection, destination, committed):
                change(
                    connection,
                    DELIVERIES,
                    delivery,
                    DeliveryState.SENT,
                    DeliveryEvent.COMMIT,
                    who=destination,
                    why="storage commitment",
                    values={"reason": None, "not_before": None},
                )
            for delivery, reference, attempts in _sent(connection, destination, tuple(failed)):
                _not_committed(connection, destination, delivery, attempts, failed[reference])
            connection.execute(
                update(commitments)
                .where(commitments.c.transaction_uid == transaction_uid)
                .values(reported_at=time_text(now()))
            )
        return True


def _sent(
    connection: Connection, destination: str, references: Sequence[Reference]
) -> Iterator[tuple[int, Reference, int]]:
    """Deliveries of these instances that wait for the destination's word: id, instance, attempts."""
    wanted = set(references)
    uids = [r.sop_instance_uid for r in references]
    for start in range(0, len(uids), PARAMETERS):
        rows = connection.execute(
            select(
                deliveries.c.id, deliveries.c.attempts, results.c.sop_class_uid, results.c.sop_instance_uid
            )
            .join(results, results.c.id == deliveries.c.result_id)
            .where(deliveries.c.state == "sent", deliveries.c.destination == destination)
            .where(results.c.sop_instance_uid.in_(uids[start : start + PARAMETERS]))
            .with_for_update(of=deliveries)
        ).all()
        for row in rows:
            reference = Reference(sop_class_uid=row.sop_class_uid, sop_instance_uid=row.sop_instance_uid)
            if reference in wanted:
                yield row.id, reference, row.attempts


def _not_committed(
    connection: Connection, destination: str, delivery: int, attempts: int, failure_reason: int
) -> None:
    meaning = PERMANENT_REASONS.get(failure_reason) or OTHER_REASONS.get(failure_reason, "unknown reason")
    why = f"not committed: {meaning} ({failure_reason:04X})"
    given_up = failure_reason in PERMANENT_REASONS or attempts >= MAXIMUM_ATTEMPTS
    change(
        connection,
        DELIVERIES,
        delivery,
        DeliveryState.SENT,
        DeliveryEvent.FAIL if given_up else DeliveryEvent.RETRY_LATER,
        who=destination,
        why=why,
        values={
            "reason": why,
            "not_before": None if given_up else time_text(now() + timedelta(seconds=RESEND_SECONDS)),
        },
    )


class OwedReports:
    """What peers have asked of us. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def owe(self, transaction_uid: str, destination: str, references: Sequence[Reference]) -> None:
        """Record a peer's request, durably; one that is there already is answered again."""
        moment = time_text(now())
        listed = json.dumps([[r.sop_class_uid, r.sop_instance_uid] for r in references])
        with self.database.write() as connection:
            former = connection.execute(
                select(commitment_reports.c.id, commitment_reports.c.state)
                .where(commitment_reports.c.transaction_uid == transaction_uid)
                .where(commitment_reports.c.destination == destination)
                .with_for_update()
            ).one_or_none()
            if former is None:
                key = connection.execute(
                    insert(commitment_reports)
                    .values(
                        transaction_uid=transaction_uid,
                        destination=destination,
                        instances=listed,
                        state=str(ReportState.PENDING),
                        attempts=0,
                        created_at=moment,
                        updated_at=moment,
                    )
                    .returning(commitment_reports.c.id)
                ).scalar_one()
                record(
                    connection, REPORTS, key, who=destination, was=None, becomes="pending", why="asked for"
                )
                return
            again = {"instances": listed, "attempts": 0, "not_before": None, "created_at": moment}
            if former.state == ReportState.PENDING:
                connection.execute(
                    update(commitment_reports).where(commitment_reports.c.id == former.id).values(again)
                )
                return
            change(
                connection,
                REPORTS,
                former.id,
                ReportState(former.state),
                ReportEvent.ASKED_AGAIN,
                who=destination,
                why="asked for again",
                values=again,
            )

    def claim(self, destination: str, seconds: float) -> OwedReport | None:
        """The oldest report that is due for a destination; nobody else gets it for that many seconds."""
        moment = now()
        due = (
            select(commitment_reports)
            .where(REPORTS.due(ReportState.PENDING, moment), commitment_reports.c.destination == destination)
            .order_by(commitment_reports.c.id)
            .limit(1)
        )
        with self.database.read() as connection:
            if connection.execute(select(due.exists())).scalar_one() is False:
                return None
        with self.database.write() as connection:
            row = connection.execute(due.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            connection.execute(
                update(commitment_reports)
                .where(commitment_reports.c.id == row.id)
                .values(attempts=row.attempts + 1, not_before=time_text(moment + timedelta(seconds=seconds)))
            )
        return OwedReport(
            id=row.id,
            transaction_uid=row.transaction_uid,
            destination=row.destination,
            references=tuple(
                Reference(sop_class_uid=sop_class, sop_instance_uid=instance)
                for sop_class, instance in json.loads(row.instances)
            ),
            attempts=row.attempts + 1,
            created_at=read_time(row.created_at),
        )

    def sent(self, report: OwedReport) -> None:
        """The peer has taken it."""
        self._settle(report, ReportEvent.SENT, "the peer has the report", None)

    def failed(self, report: OwedReport, reason: str) -> None:
        """The peer does not take it and will not."""
        self._settle(report, ReportEvent.FAIL, reason, reason)

    def later(self, report: OwedReport, moment: datetime, reason: str) -> None:
        """Try again at a later moment."""
        with self.database.write() as connection:
            connection.execute(
                update(commitment_reports)
                .where(commitment_reports.c.id == report.id, commitment_reports.c.state == "pending")
                .values(not_before=time_text(moment), reason=reason)
            )

    def _settle(self, report: OwedReport, event: ReportEvent, why: str, reason: str | None) -> None:
        with self.database.write() as connection:
            change(
                connection,
                REPORTS,
                report.id,
                ReportState.PENDING,
                event,
                who="courier",
                why=why,
                values={"reason": reason},
            )
