"""The retrieve services: C-MOVE sends results to a configured destination, C-GET back over the same association.

References: PS3.4 sections C.4.2 (C-MOVE) and C.4.3 (C-GET); statuses in tables C.4-2 and C.4-3.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from db.database import Database
from db.errors import DatabaseError
from db.records import Result
from db.results import Results
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import (
    C_GET_RSP,
    C_MOVE_RSP,
    C_STORE_RQ,
    C_STORE_RSP,
    NO_DATASET,
    WITH_DATASET,
    Command,
)
from handlers.dimse.identifiers import IdentifierError, encode_dataset, read_identifier, write_identifier
from handlers.dimse.messages import Message, MessageExchange
from handlers.dimse.statuses import (
    CANCELLED,
    CANNOT_CALCULATE_MATCHES,
    CANNOT_PERFORM_SUBOPERATIONS,
    DATASET_DOES_NOT_MATCH,
    DESTINATION_UNKNOWN,
    PENDING,
    SUBOPERATIONS_FAILED,
    SUCCESS,
    meaning,
)
from handlers.encoding.uids import NATIVE
from handlers.errors import ProtocolViolation
from handlers.finding.entities import results_by_uids
from handlers.finding.information_model import UNIQUE_KEYS, Identifier
from handlers.sending.sender import FileToSend, MoveOriginator, Sender
from handlers.settings import ReceiverSettings
from handlers.spool.stored_files import StoredFiles
from handlers.upper_layer.association import PresentationContext

log = logging.getLogger("overread.retrieval")

MAXIMUM_COUNT = 0xFFFF
MEDIUM_PRIORITY = 0


class SuboperationTally:
    """Counts the sub-operations of one retrieval by outcome."""

    def __init__(self, total: int) -> None:
        self.remaining = total
        self.completed = 0
        self.warned = 0
        self.failed: list[str] = []

    def add(self, sop_instance_uid: str, *, delivered: bool, status: int | None) -> None:
        """Count one finished sub-operation; ``status`` is that of the C-STORE response, None if there was none."""
        self.remaining -= 1
        if not delivered:
            self.failed.append(sop_instance_uid)
        elif status:
            self.warned += 1
        else:
            self.completed += 1

    def last_status(self) -> int:
        """The status of the final response, unless the retrieval was cancelled."""
        if self.failed and not self.completed and not self.warned:
            return CANNOT_PERFORM_SUBOPERATIONS
        return SUBOPERATIONS_FAILED if self.failed or self.warned else SUCCESS


class Retrieval:
    """The common part of C-MOVE and C-GET: finding the results, and answering."""

    response_field: int

    def __init__(self, database: Database, settings: ReceiverSettings, root: Path, audit: AuditTrail) -> None:
        self.audit = audit
        self.results = Results(database)
        self.settings = settings
        self.files = StoredFiles(root)

    def __call__(self, exchange: MessageExchange, message: Message) -> None:
        """Answer one C-MOVE-RQ or C-GET-RQ."""
        context = message.context
        try:
            identifier = read_identifier(
                exchange.read_dataset(), context.transfer_syntax, context.abstract_syntax
            )
            found = self._find_results(identifier)
        except IdentifierError as error:
            self._refuse(exchange, message, DATASET_DOES_NOT_MATCH, str(error))
            return
        except DatabaseError as error:
            log.error("retrieval_failed association=%s error=%s", exchange.peer.association, error)
            self._refuse(exchange, message, CANNOT_CALCULATE_MATCHES, "the database does not answer")
            return
        self._retrieve(exchange, message, found)

    def _retrieve(self, exchange: MessageExchange, message: Message, found: Sequence[Result]) -> None:
        raise NotImplementedError

    def _find_results(self, identifier: Identifier) -> list[Result]:
        needed = UNIQUE_KEYS[identifier.level]
        if not identifier.values(needed):
            raise IdentifierError(f"{needed} is missing")
        return results_by_uids(self.results, identifier)

    def _refuse(self, exchange: MessageExchange, message: Message, status: int, comment: str) -> None:
        exchange.send(
            message.context.identifier,
            Command(
                command_field=self.response_field,
                message_id_responded_to=message.command.message_id,
                affected_sop_class_uid=message.context.abstract_syntax,
                status=status,
                error_comment=comment[:64],
            ),
        )

    def _respond(
        self, exchange: MessageExchange, message: Message, tally: SuboperationTally, status: int
    ) -> None:
        """Send a response with the counts; the final one also lists the instances that failed."""
        last = status != PENDING
        failures = (
            write_identifier({"FailedSOPInstanceUIDList": tally.failed}, message.context.transfer_syntax)
            if last and tally.failed
            else None
        )
        exchange.send(
            message.context.identifier,
            Command(
                command_field=self.response_field,
                message_id_responded_to=message.command.message_id,
                affected_sop_class_uid=message.context.abstract_syntax,
                status=status,
                remaining_suboperations=min(tally.remaining, MAXIMUM_COUNT)
                if status in (PENDING, CANCELLED)
                else None,
                completed_suboperations=min(tally.completed, MAXIMUM_COUNT),
                failed_suboperations=min(len(tally.failed), MAXIMUM_COUNT),
                warning_suboperations=min(tally.warned, MAXIMUM_COUNT),
                dataset_type=NO_DATASET if failures is None else WITH_DATASET,
            ),
            failures,
        )

    def _file_to_send(self, result: Result) -> FileToSend:
        return FileToSend(
            path=self.files.local(result.path),
            sop_class_uid=result.sop_class_uid,
            sop_instance_uid=result.sop_instance_uid,
            transfer_syntax_uid=result.transfer_syntax_uid,
        )


class Move(Retrieval):
    """Answers C-MOVE: sends results to the configured destination with the given AE title."""

    response_field = C_MOVE_RSP

    def _retrieve(self, exchange: MessageExchange, message: Message, found: Sequence[Result]) -> None:
        title = message.command.move_destination
        destination = next((d for d in self.settings.destinations if d.ae_title == title), None)
        if destination is None:
            log.warning(
                "move_refused association=%s reason=%s", exchange.peer.association, "unknown destination"
            )
            self._refuse(exchange, message, DESTINATION_UNKNOWN, "Move Destination is not configured")
            return
        message_id = message.command.message_id or 0
        originator = MoveOriginator(ae_title=exchange.peer.calling_ae, message_id=message_id)
        tally = SuboperationTally(len(found))
        by_uid = {result.sop_instance_uid: result for result in found}
        delivered: list[Result] = []
        files = [self._file_to_send(result) for result in found]
        try:
            for sent in Sender(destination, self.settings.ae_title).send(files, originator):
                tally.add(sent.file.sop_instance_uid, delivered=sent.delivered, status=sent.status)
                if sent.delivered:
                    delivered.append(by_uid[sent.file.sop_instance_uid])
                if tally.remaining and exchange.cancelled(message_id):
                    self._respond(exchange, message, tally, CANCELLED)
                    return
                if tally.remaining:
                    self._respond(exchange, message, tally, PENDING)
        finally:
            self.audit.sent(exchange.peer.called_ae, destination, delivered, asked_by=exchange.peer)
        self._respond(exchange, message, tally, tally.last_status())


class Get(Retrieval):
    """Answers C-GET: sends results over the association of the request."""

    response_field = C_GET_RSP

    def _retrieve(self, exchange: MessageExchange, message: Message, found: Sequence[Result]) -> None:
        message_id = message.command.message_id or 0
        tally = SuboperationTally(len(found))
        sent: list[Result] = []
        try:
            for number, result in enumerate(found):
                if exchange.cancelled(message_id):
                    self._respond(exchange, message, tally, CANCELLED)
                    return
                status = self._store_result(exchange, result, 1 + number % MAXIMUM_COUNT)
                delivered = status is not None and meaning(status).delivered
                tally.add(result.sop_instance_uid, delivered=delivered, status=status)
                if delivered:
                    sent.append(result)
                if tally.remaining:
                    self._respond(exchange, message, tally, PENDING)
        finally:
            self.audit.fetched(exchange.peer, sent)
        self._respond(exchange, message, tally, tally.last_status())

    def _store_result(self, exchange: MessageExchange, result: Result, message_id: int) -> int | None:
        """Send one result; return the status of the response, None if the result could not be sent."""
        context = _context_for(exchange, result)
        if context is None:
            return None
        command = Command(
            command_field=C_STORE_RQ,
            message_id=message_id,
            affected_sop_class_uid=result.sop_class_uid,
            priority=MEDIUM_PRIORITY,
            dataset_type=WITH_DATASET,
            affected_sop_instance_uid=result.sop_instance_uid,
        )
        try:
            with self.files.open(result.path) as opened:
                if context.transfer_syntax == result.transfer_syntax_uid:
                    opened.seek(_dataset_offset(opened.read(144)))
                    exchange.send(context.identifier, command, opened)
                else:
                    encoded = encode_dataset(dcmread(opened), context.transfer_syntax)
                    exchange.send(context.identifier, command, encoded)
        except (OSError, InvalidDicomError, ValueError) as error:
            log.error("result_unreadable error=%s", type(error).__name__)
            return None
        answer = exchange.receive().command
        if answer.command_field != C_STORE_RSP or answer.message_id_responded_to != message_id:
            raise ProtocolViolation("the answer to a C-STORE was expected")
        return answer.status


def _context_for(exchange: MessageExchange, result: Result) -> PresentationContext | None:
    """The context to send a result with: its own transfer syntax, or else, for a native one, another native one."""
    offered = [
        context
        for context in exchange.contexts.values()
        if context.abstract_syntax == result.sop_class_uid and context.peer_is_scp
    ]
    wanted = [result.transfer_syntax_uid, *(NATIVE if result.transfer_syntax_uid in NATIVE else ())]
    return next((c for syntax in wanted for c in offered if c.transfer_syntax == syntax), None)


def _dataset_offset(head: bytes) -> int:
    """Where the dataset begins in one of our files, given its first 144 bytes (PS3.10 section 7.1).

    Raises:
        InvalidDicomError: the file does not begin with a group length, which ours do.
    """
    if len(head) < 144 or head[128:140] != b"DICM\x02\x00\x00\x00UL\x04\x00":
        raise InvalidDicomError("no file meta information group length")
    return 144 + int.from_bytes(head[140:144], "little")
