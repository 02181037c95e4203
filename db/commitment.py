"""Storage commitment: what we ask destinations to take responsibility for, and what peers ask of us (PS3.4 annex J).

Rows have no lease but a due time. Whoever claims a row sets its due time to later, so that the row is due again if
no answer comes, also after a crash.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta

from sqlalchemy import Connection, insert, select, update

from db.database import MAX_PARAMETERS, Database, now, read_time, time_text
from db.records import CommitmentRequest, OwedReport, Reference
from db.retry import COMMITMENT
from db.states import DeliveryEvent, DeliveryState, ReportEvent, ReportState
from db.tables import commitment_reports, commitments, deliveries, results
from db.transitions import DELIVERIES, REPORTS, change, record

NO_ANSWER_YET = "storage commitment was asked for, no answer yet"
RESEND_SECONDS = 60.0
MAXIMUM_ATTEMPTS = 10
"""How often an object is sent to a destination that then does not commit to it."""
PERMANENT_REASONS = {
    0x0119: "class and instance conflict",
    0x0122: "SOP class not supported",
}
"""The values of Failure Reason (0008,1197) after which sending again cannot help (PS3.3 section C.14.1.1)."""
OTHER_REASONS = {
    0x0110: "processing failure",
    0x0112: "no such object instance",
    0x0131: "duplicate transaction UID",
    0x0213: "resource limitation",
}


class Commitments:
    """Our requests to destinations. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def ask(self, destination: str, limit: int) -> CommitmentRequest | None:
        """Record a new request about results that were sent to a destination; the caller then sends it.

        If no answer comes, the same results are due again after a minute, then after twice as long each time, at
        most an hour.

        Args:
            destination: its name in the configuration.
            limit: at most so many results.

        Returns:
            The request, or None if nothing is due.
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
            attempts = max(row.commitment_attempts for row in rows)
            pause = COMMITMENT.pause(attempts + 1)
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
                    not_before=time_text(moment + timedelta(seconds=pause)),
                    commitment_attempts=deliveries.c.commitment_attempts + 1,
                    reason=NO_ANSWER_YET,
                )
            )
        return request

    def request_failed(self, request: CommitmentRequest, reason: str) -> None:
        """Record why a request did not reach the destination or was refused. It is due again all the same."""
        with self.database.write() as connection:
            connection.execute(
                update(deliveries)
                .where(deliveries.c.id.in_(request.delivery_ids), deliveries.c.state == "sent")
                .values(reason=reason)
            )

    def destination_of(self, transaction_uid: str) -> str | None:
        """The destination that was asked in a transaction, None for one that is not ours."""
        with self.database.read() as connection:
            return connection.execute(
                select(commitments.c.destination).where(commitments.c.transaction_uid == transaction_uid)
            ).scalar_one_or_none()

    def apply_report(
        self, transaction_uid: str, committed: Sequence[Reference], failed: Mapping[Reference, int]
    ) -> bool:
        """Apply a destination's report.

        Args:
            transaction_uid: the transaction that it answers.
            committed: the instances that the destination takes responsibility for.
            failed: the others, each with its Failure Reason (0008,1197). They are sent again, or given up where that
                cannot help.

        Returns:
            False for a transaction that is not ours.
        """
        with self.database.write() as connection:
            destination = connection.execute(
                select(commitments.c.destination).where(commitments.c.transaction_uid == transaction_uid)
            ).scalar_one_or_none()
            if destination is None:
                return False
            for delivery, _, _ in _awaiting_report(connection, destination, committed):
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
            for delivery, reference, attempts in _awaiting_report(connection, destination, tuple(failed)):
                _resend_or_give_up(connection, destination, delivery, attempts, failed[reference])
            connection.execute(
                update(commitments)
                .where(commitments.c.transaction_uid == transaction_uid)
                .values(reported_at=time_text(now()))
            )
        return True


def _awaiting_report(
    connection: Connection, destination: str, references: Sequence[Reference]
) -> Iterator[tuple[int, Reference, int]]:
    """The deliveries of these instances that wait for a report, as (delivery id, instance, attempts)."""
    wanted = set(references)
    uids = [r.sop_instance_uid for r in references]
    for start in range(0, len(uids), MAX_PARAMETERS):
        rows = connection.execute(
            select(
                deliveries.c.id, deliveries.c.attempts, results.c.sop_class_uid, results.c.sop_instance_uid
            )
            .join(results, results.c.id == deliveries.c.result_id)
            .where(deliveries.c.state == "sent", deliveries.c.destination == destination)
            .where(results.c.sop_instance_uid.in_(uids[start : start + MAX_PARAMETERS]))
            .with_for_update(of=deliveries)
        ).all()
        for row in rows:
            reference = Reference(sop_class_uid=row.sop_class_uid, sop_instance_uid=row.sop_instance_uid)
            if reference in wanted:
                yield row.id, reference, row.attempts


def _resend_or_give_up(
    connection: Connection, destination: str, delivery: int, attempts: int, failure_reason: int
) -> None:
    """Send a result again that the destination did not commit to, or give it up."""
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
    """Our answers to requests of peers. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def owe(self, transaction_uid: str, destination: str, references: Sequence[Reference]) -> None:
        """Record a peer's request. A request that is recorded already is answered again.

        Args:
            transaction_uid: the peer's transaction.
            destination: where the peer listens for the answer: a name in the configuration.
            references: the instances that the peer asks about.
        """
        moment = time_text(now())
        instances = json.dumps([[r.sop_class_uid, r.sop_instance_uid] for r in references])
        with self.database.write() as connection:
            present = connection.execute(
                select(commitment_reports.c.id, commitment_reports.c.state)
                .where(commitment_reports.c.transaction_uid == transaction_uid)
                .where(commitment_reports.c.destination == destination)
                .with_for_update()
            ).one_or_none()
            if present is None:
                key = connection.execute(
                    insert(commitment_reports)
                    .values(
                        transaction_uid=transaction_uid,
                        destination=destination,
                        instances=instances,
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
            renewed = {"instances": instances, "attempts": 0, "not_before": None, "created_at": moment}
            if present.state == ReportState.PENDING:
                connection.execute(
                    update(commitment_reports).where(commitment_reports.c.id == present.id).values(renewed)
                )
                return
            change(
                connection,
                REPORTS,
                present.id,
                ReportState(present.state),
                ReportEvent.ASKED_AGAIN,
                who=destination,
                why="asked for again",
                values=renewed,
            )

    def claim(self, destination: str, seconds: float) -> OwedReport | None:
        """Claim the oldest report that is due for a destination, or None. Nobody else gets it for ``seconds``."""
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
        """Record that the peer accepted a report."""
        self._finish(report, ReportEvent.SENT, "the peer has the report", None)

    def failed(self, report: OwedReport, reason: str) -> None:
        """Give up a report that the peer does not accept."""
        self._finish(report, ReportEvent.FAIL, reason, reason)

    def postpone(self, report: OwedReport, moment: datetime, reason: str) -> None:
        """Make a report due again at a later moment."""
        with self.database.write() as connection:
            connection.execute(
                update(commitment_reports)
                .where(commitment_reports.c.id == report.id, commitment_reports.c.state == "pending")
                .values(not_before=time_text(moment), reason=reason)
            )

    def _finish(self, report: OwedReport, event: ReportEvent, why: str, reason: str | None) -> None:
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
