"""The query service: C-FIND over the node's results, Patient Root and Study Root.

References: PS3.4 section C.4.1 (C-FIND; statuses in table C.4-1).
"""

from __future__ import annotations

import logging

from db.database import Database
from db.errors import DatabaseError
from db.results import Results
from handlers.audit.messages import AuditedQuery
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import C_FIND_RSP, WITH_DATASET, Command
from handlers.dimse.identifiers import IdentifierError, read_identifier, write_identifier
from handlers.dimse.messages import Message, MessageExchange
from handlers.dimse.statuses import CANCELLED, DATASET_DOES_NOT_MATCH, OUT_OF_RESOURCES, PENDING, SUCCESS
from handlers.finding.entities import TooManyResults, find

log = logging.getLogger("overread.query")


class Query:
    """Answers C-FIND requests. Thread-safe."""

    def __init__(self, database: Database, ae_title: str, audit: AuditTrail) -> None:
        self.results = Results(database)
        self.ae_title = ae_title
        self.audit = audit

    def __call__(self, exchange: MessageExchange, message: Message) -> None:
        """Answer one C-FIND-RQ: a pending response for each match, then the final response."""
        status, comment = SUCCESS, None
        try:
            status = self._answer(exchange, message)
        except IdentifierError as error:
            status, comment = DATASET_DOES_NOT_MATCH, str(error)[:64]
        except TooManyResults as error:
            status, comment = OUT_OF_RESOURCES, str(error)
        except DatabaseError as error:
            log.error("query_failed association=%s error=%s", exchange.peer.association, error)
            status, comment = OUT_OF_RESOURCES, "the database does not answer"
        exchange.send(
            message.context.identifier,
            Command(
                command_field=C_FIND_RSP,
                message_id_responded_to=message.command.message_id or 0,
                affected_sop_class_uid=message.context.abstract_syntax,
                status=status,
                error_comment=comment,
            ),
        )

    def _answer(self, exchange: MessageExchange, message: Message) -> int:
        """Send the matches; return the status of the final response."""
        context, message_id = message.context, message.command.message_id or 0
        data = exchange.read_dataset()
        identifier = read_identifier(data, context.transfer_syntax, context.abstract_syntax)
        asked = AuditedQuery(
            sop_class_uid=context.abstract_syntax,
            transfer_syntax_uid=context.transfer_syntax,
            keywords=[identifier.level, *identifier.keys],
            dataset=data,
        )
        self.audit.queried(exchange.peer, asked)
        pending = Command(
            command_field=C_FIND_RSP,
            message_id_responded_to=message_id,
            affected_sop_class_uid=context.abstract_syntax,
            dataset_type=WITH_DATASET,
            status=PENDING,
        )
        for found in find(self.results, identifier):
            if exchange.cancelled(message_id):
                return CANCELLED
            answer = {"QueryRetrieveLevel": identifier.level, "RetrieveAETitle": self.ae_title, **found}
            exchange.send(context.identifier, pending, write_identifier(answer, context.transfer_syntax))
        return SUCCESS
