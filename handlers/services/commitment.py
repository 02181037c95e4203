"""Storage commitment in a receiver: N-ACTION requests of peers and N-EVENT-REPORTs of destinations.

The courier reports to a peer over an association that it opens later, so that a restart on either side does no harm.

References: PS3.4 sections J.3.2 and J.3.3, PS3.7 sections 10.1.1 and 10.1.4; statuses in PS3.7 annex C.
"""

from __future__ import annotations

import logging
from pathlib import Path

from db.commitment import Commitments, OwedReports
from db.database import Database
from db.errors import DatabaseError
from db.wakeup import notify
from handlers.dimse.commands import N_ACTION_RSP, N_EVENT_REPORT_RSP, Command
from handlers.dimse.commitment import (
    INVALID_ARGUMENT,
    NO_SUCH_INSTANCE,
    PROCESSING_FAILURE,
    REQUEST_COMMITMENT,
    CommitmentError,
    decode_dataset,
    read_report,
    read_request,
)
from handlers.dimse.messages import Message, MessageExchange
from handlers.dimse.statuses import NO_SUCH_ACTION, NOT_AUTHORIZED, SUCCESS
from handlers.dimse.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from handlers.errors import RequestRefused
from handlers.settings import ReceiverSettings

log = logging.getLogger("overread.commitment")


class CommitmentRequests:
    """Answers N-ACTION requests: it records the request, and the courier reports later."""

    def __init__(self, database: Database, settings: ReceiverSettings, run_directory: Path) -> None:
        self.owed = OwedReports(database)
        self.settings = settings
        self.run_directory = run_directory

    def __call__(self, exchange: MessageExchange, message: Message) -> None:
        """Answer one N-ACTION-RQ."""
        command = message.command
        status, comment = SUCCESS, None
        try:
            self._record_request(exchange, message)
        except RequestRefused as refused:
            status, comment = refused.status, str(refused)
            log.warning(
                "commitment_refused association=%s status=%04X reason=%s",
                exchange.peer.association,
                status,
                comment,
            )
        exchange.send(
            message.context.identifier,
            Command(
                command_field=N_ACTION_RSP,
                message_id_responded_to=command.message_id,
                affected_sop_class_uid=STORAGE_COMMITMENT,
                affected_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
                action_type_id=command.action_type_id,
                status=status,
                error_comment=None if comment is None else comment[:64],
            ),
        )
        if status == SUCCESS:
            notify(self.run_directory, "courier")

    def _record_request(self, exchange: MessageExchange, message: Message) -> None:
        command = message.command
        data = exchange.read_dataset()
        if command.requested_sop_instance_uid != STORAGE_COMMITMENT_INSTANCE:
            raise RequestRefused(NO_SUCH_INSTANCE, "not the instance of storage commitment")
        if command.action_type_id != REQUEST_COMMITMENT:
            raise RequestRefused(NO_SUCH_ACTION, "the only action is 1, request storage commitment")
        title = exchange.peer.calling_ae
        destination = next((d for d in self.settings.destinations if d.ae_title == title), None)
        if destination is None:
            raise RequestRefused(NOT_AUTHORIZED, "no [[destination]] says where this AE title listens")
        try:
            transaction, references = read_request(decode_dataset(data, message.context.transfer_syntax))
        except CommitmentError as error:
            raise RequestRefused(INVALID_ARGUMENT, str(error)) from None
        try:
            self.owed.owe(transaction, destination.name, references)
        except DatabaseError as error:
            raise RequestRefused(PROCESSING_FAILURE, "the index cannot be written") from error
        log.info("commitment_asked_of_us destination=%s instances=%d", destination.name, len(references))


class CommitmentReports:
    """Answers N-EVENT-REPORT requests, in which a destination says which instances it has committed to."""

    def __init__(self, database: Database, settings: ReceiverSettings) -> None:
        self.commitments = Commitments(database)
        self.settings = settings

    def __call__(self, exchange: MessageExchange, message: Message) -> None:
        """Answer one N-EVENT-REPORT-RQ."""
        data = exchange.read_dataset()
        try:
            status = self._record_report(exchange.peer.calling_ae, data, message.context.transfer_syntax)
        except CommitmentError as error:
            log.warning(
                "commitment_report_refused association=%s reason=%s", exchange.peer.association, error
            )
            status = INVALID_ARGUMENT
        exchange.send(
            message.context.identifier,
            Command(
                command_field=N_EVENT_REPORT_RSP,
                message_id_responded_to=message.command.message_id,
                affected_sop_class_uid=STORAGE_COMMITMENT,
                affected_sop_instance_uid=STORAGE_COMMITMENT_INSTANCE,
                event_type_id=message.command.event_type_id,
                status=status,
            ),
        )

    def _record_report(self, calling_ae: str, data: bytes, transfer_syntax: str) -> int:
        report = read_report(decode_dataset(data, transfer_syntax))
        try:
            name = self.commitments.destination_of(report.transaction_uid)
            known = any(d.name == name and d.ae_title == calling_ae for d in self.settings.destinations)
            if not known:
                raise CommitmentError("no transaction with this peer has that Transaction UID")
            self.commitments.apply_report(report.transaction_uid, report.committed, report.failed)
        except DatabaseError as error:
            log.error("commitment_not_recorded destination=%s error=%s", name, error)
            return PROCESSING_FAILURE
        log.info(
            "commitment_reported destination=%s committed=%d failed=%d",
            name,
            len(report.committed),
            len(report.failed),
        )
        return SUCCESS
