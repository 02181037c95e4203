"""The storage service: a C-STORE is acknowledged when its instance is durable in the spool and the index.

References: PS3.4 annex B (storage service class; statuses in table B.2-1), PS3.7 section 9.1.1.
"""

from __future__ import annotations

import logging

from handlers.dimse.commands import C_STORE_RSP, Command
from handlers.dimse.messages import Message, MessageExchange
from handlers.dimse.statuses import (
    CANNOT_UNDERSTAND,
    DATASET_DOES_NOT_MATCH,
    INVALID_INSTANCE,
    OUT_OF_RESOURCES,
    SOP_CLASS_NOT_SUPPORTED,
    SUCCESS,
)
from handlers.encoding.uids import is_uid
from handlers.errors import RequestRefused
from handlers.peer import Peer
from handlers.spool.intake import Announced, Cause, Intake, Refused

log = logging.getLogger("overread.storage")

STATUSES = {
    Cause.OUT_OF_RESOURCES: OUT_OF_RESOURCES,
    Cause.DOES_NOT_MATCH: DATASET_DOES_NOT_MATCH,
    Cause.NOT_UNDERSTOOD: CANNOT_UNDERSTAND,
}
COMMENT_LENGTH = 64
"""Most characters in an Error Comment (0000,0902)."""


class Storage:
    """Answers C-STORE requests. Thread-safe."""

    def __init__(self, intake: Intake) -> None:
        self.intake = intake

    def __call__(self, exchange: MessageExchange, message: Message) -> None:
        """Answer one C-STORE-RQ."""
        command = message.command
        status, comment = SUCCESS, None
        try:
            self._store(exchange, message)
        except RequestRefused as refused:
            status, comment = refused.status, str(refused)[:COMMENT_LENGTH]
            log.warning(
                "refused association=%s status=%04X reason=%s", exchange.peer.association, status, comment
            )
        for _ in exchange.dataset():
            pass
        exchange.send(
            message.context.identifier,
            Command(
                command_field=C_STORE_RSP,
                message_id_responded_to=command.message_id,
                affected_sop_class_uid=command.affected_sop_class_uid,
                affected_sop_instance_uid=command.affected_sop_instance_uid,
                status=status,
                error_comment=comment,
            ),
        )

    def _store(self, exchange: MessageExchange, message: Message) -> None:
        command, context = message.command, message.context
        uid = command.affected_sop_instance_uid
        if uid is None or not is_uid(uid):
            raise RequestRefused(INVALID_INSTANCE, "Affected SOP Instance UID is missing or malformed")
        if command.affected_sop_class_uid != context.abstract_syntax:
            raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "SOP class differs from the presentation context")
        if not command.has_dataset:
            raise RequestRefused(CANNOT_UNDERSTAND, "the request has no dataset")
        announced = Announced(
            sop_class_uid=context.abstract_syntax,
            sop_instance_uid=uid,
            transfer_syntax_uid=context.transfer_syntax,
        )
        verdict = self.intake.take(announced, exchange.dataset(), exchange.peer)
        if isinstance(verdict, Refused):
            raise RequestRefused(STATUSES[verdict.cause], verdict.reason)

    def association_ended(self, peer: Peer, *, released: bool) -> None:
        """Note that an association over which instances were stored has ended."""
        self.intake.association_ended(peer, released=released)
