"""DIMSE messages over an association: commands and their datasets, sent in fragments.

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
from handlers.upper_layer.association import DataTransfer, PresentationContext
from handlers.upper_layer.pdu import encode_data

MAXIMUM_IDENTIFIER_LENGTH = 1_048_576
COMMAND_FRAGMENT = 1
"""Bit of the message control header: a fragment of a command, not of a dataset."""
LAST_FRAGMENT = 2
"""Bit of the message control header: no fragment follows."""


@dataclass(frozen=True, kw_only=True)
class Message:
    """A received command; its dataset, if it has one, has not been read yet."""

    context: PresentationContext
    command: Command


class MessageExchange:
    """Sends and receives the messages of one established association. For the association's thread only."""

    def __init__(self, association: DataTransfer) -> None:
        self._association = association
        self._unread_context: int | None = None
        """Identifier of the presentation context whose dataset has not been read to its end."""

    @property
    def peer(self) -> Peer:
        """The peer of the association."""
        return self._association.peer

    @property
    def contexts(self) -> Mapping[int, PresentationContext]:
        """The accepted presentation contexts by identifier."""
        return self._association.contexts

    def receive(self) -> Message:
        """Wait for the next command; the unread rest of the previous dataset is skipped.

        Raises:
            AssociationReleased: the peer released the association, and we answered.
            AssociationAborted, ProtocolViolation, PeerTimeout: the association cannot go on.
        """
        for _ in self.dataset():
            pass
        parts = bytearray()
        context_id: int | None = None
        while True:
            identifier, control, data = self._association.next_value()
            if not control & COMMAND_FRAGMENT or context_id not in (None, identifier):
                raise ProtocolViolation("data where a command was expected")
            context_id = identifier
            parts += data
            if len(parts) > MAXIMUM_COMMAND_LENGTH:
                raise ProtocolViolation("the command is too long")
            if control & LAST_FRAGMENT:
                break
        command = decode_command(bytes(parts))
        if command.has_dataset:
            self._unread_context = context_id
        return Message(context=self.contexts[context_id], command=command)

    def dataset(self) -> Iterator[memoryview]:
        """The fragments of the last received command's dataset; each is valid until the next is read.

        Raises:
            AssociationReleased, AssociationAborted, ProtocolViolation, PeerTimeout: as ``receive``.
        """
        while self._unread_context is not None:
            identifier, control, data = self._association.next_value()
            if control & COMMAND_FRAGMENT or identifier != self._unread_context:
                raise ProtocolViolation("another message begins in the middle of a dataset")
            if control & LAST_FRAGMENT:
                self._unread_context = None
            yield data

    def read_dataset(self) -> bytes:
        """The whole dataset of the last received command; for identifiers, which are small.

        Raises:
            ProtocolViolation: it is longer than ``MAXIMUM_IDENTIFIER_LENGTH`` bytes.
            AssociationReleased, AssociationAborted, PeerTimeout: as ``receive``.
        """
        parts = bytearray()
        for fragment in self.dataset():
            parts += fragment
            if len(parts) > MAXIMUM_IDENTIFIER_LENGTH:
                raise ProtocolViolation("the identifier is too long")
        return bytes(parts)

    def cancelled(self, message_id: int) -> bool:
        """Whether a C-CANCEL-RQ for this message has arrived, without waiting for one.

        Raises:
            ProtocolViolation: another request arrived.
        """
        if not self._association.has_pending_data():
            return False
        command = self.receive().command
        if command.command_field != C_CANCEL_RQ:
            raise ProtocolViolation("a request during an operation that was not finished")
        return command.message_id_responded_to == message_id

    def send(self, context_id: int, command: Command, data: bytes | BinaryIO | None = None) -> None:
        """Send a command and its dataset, if any, in fragments no longer than the peer accepts.

        Raises:
            AssociationAborted, PeerTimeout: the peer does not read it.
        """
        self._association.send_values(self._values(context_id, command, data))

    def _values(self, context_id: int, command: Command, data: bytes | BinaryIO | None) -> Iterator[bytes]:
        yield encode_data(context_id, encode_command(command), command=True, last=True)
        if data is None:
            return
        fragments = self._split(data)
        fragment = next(fragments, b"")
        for following in fragments:
            yield encode_data(context_id, fragment, command=False, last=False)
            fragment = following
        yield encode_data(context_id, fragment, command=False, last=True)

    def _split(self, data: bytes | BinaryIO) -> Iterator[bytes]:
        length = self._association.fragment_length
        if isinstance(data, bytes):
            return (data[start : start + length] for start in range(0, len(data), length))
        return iter(lambda: data.read(length), b"")


Service = Callable[[MessageExchange, Message], None]
"""Answers one command."""
