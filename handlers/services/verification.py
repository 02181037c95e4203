"""The verification service: C-ECHO (PS3.4 annex A)."""

from __future__ import annotations

from handlers.dimse.commands import C_ECHO_RSP, Command
from handlers.dimse.messages import Message, MessageExchange
from handlers.dimse.statuses import SUCCESS
from handlers.dimse.uids import VERIFICATION


def verify(exchange: MessageExchange, message: Message) -> None:
    """Answer one C-ECHO-RQ."""
    exchange.send(
        message.context.identifier,
        Command(
            command_field=C_ECHO_RSP,
            message_id_responded_to=message.command.message_id,
            affected_sop_class_uid=VERIFICATION,
            status=SUCCESS,
        ),
    )
