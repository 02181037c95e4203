"""DIMSE messages over an association: commands with their datasets, in fragments.

References: PS3.7 section 9.3 (message exchange), PS3.8 annex E (message control header).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from handlers.dimse.commands import (
    C_CANCEL_RQ,
    MAXIMUM_COMMAND_LENGTH,
    Command,
    decode_command,
    encode_command,
)
from handlers.errors import ProtocolViolation
from handlers.peer import Peer
from handlers.upper_layer.association import Association, PresentationContext

MAXIMUM_IDENTIFIER_LENGTH = 1_048_576
COMMAND = 1
"""Bit of the message control header: a fragment of a command, not of a dataset."""
LAST = 2
"""Bit of the message control header: no fragment follows."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A command that arrived; its dataset, where it has one, is still to be read."""

    context: PresentationContext
    command: Command


class MessageExchange:
    """The messages of one established association, used by its thread."""

    def __init__(self, association: Association) -> None:
        self._association = association
        self._dataset_of: int | None = None
        """The context whose dataset is still to be read."""

    @property
    def peer(self) -> Peer:
        """Who is at the other end."""
        return self._association.peer

    @property
    def contexts(self) -> Mapping[int, PresentationContext]:
        """The accepted presentation contexts."""
        return self._association.contexts

    def receive(self) -> Message:
        """The next command; what is left of the dataset before it is passed over.

        Raises:
            AssociationReleased: the peer is done; the release was answered.
            AssociationAborted, ProtocolViolation, PeerTimeout: the association is over.
        """
        for _ in self.dataset():
            pass
        parts = bytearray()
        context_id: int | None = None
        while True:
            identifier, control, data = self._association.next_value()
            if not control & COMMAND or context_id not in (None, identifier):
                raise ProtocolViolation("data where a command was expected")
            context_id = identifier
            parts += data
            if len(parts) > MAXIMUM_COMMAND_LENGTH:
                raise ProtocolViolation("the command is too long")
            if control & LAST:
                break
        command = decode_command(bytes(parts))
        if command.has_dataset:
            self._dataset_of = context_id
        return Message(context=self.contexts[context_id], command=command)

    def dataset(self) -> Iterator[memoryview]:
        """The fragments of the dataset of the command received last; each is valid until the next."""
        while self._dataset_of is not None:
            identifier, control, data = self._association.next_value()
            if control & COMMAND or identifier != self._dataset_of:
                raise ProtocolViolation("another message begins in the middle of a dataset")
            if control & LAST:
                self._dataset_of = None
            yield data

    def read_dataset(self) -> bytes:
        """The whole dataset of the command received last; meant for identifiers, which are small."""
        parts = bytearray()
        for fragment in self.dataset():
            parts += fragment
            if len(parts) > MAXIMUM_IDENTIFIER_LENGTH:
                raise ProtocolViolation("the identifier is too long")
        return bytes(parts)

    def cancelled(self, message_id: int) -> bool:
        """Whether a C-CANCEL-RQ for this message has arrived; does not wait."""
        if not self._association.value_waits():
            return False
        command = self.receive().command
        if command.command_field != C_CANCEL_RQ:
            raise ProtocolViolation("a request during an operation that was not finished")
        return command.message_id_responded_to == message_id

    def send(self, context_id: int, command: Command, data: bytes | BinaryIO | None = None) -> None:
        """Send a command and, where it has one, its dataset, in fragments that the peer takes."""
        send = self._association.send_value
        send(context_id, encode_command(command), command=True, last=True)
        if data is None:
            return
        pieces = self._pieces(data)
        piece = next(pieces, b"")
        for following in pieces:
            send(context_id, piece, command=False, last=False)
            piece = following
        send(context_id, piece, command=False, last=True)

    def _pieces(self, data: bytes | BinaryIO) -> Iterator[bytes]:
        length = self._association.fragment_length
        if isinstance(data, bytes):
            return (data[start : start + length] for start in range(0, len(data), length))
        return iter(lambda: data.read(length), b"")


Service = Callable[[MessageExchange, Message], None]
"""Answers one command."""
