"""Associations: their presentation data values, and for those that a peer opens its request and our answer.

We have our own implementation because this is the hot path and faces every peer: bytes go from the socket to the
service with as few copies as possible.

References: PS3.8 section 9.2 (state machine).
"""

from __future__ import annotations

import socket
import ssl
import time
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from handlers.errors import AssociationAborted, AssociationReleased, PeerTimeout, ProtocolViolation
from handlers.peer import Peer
from handlers.settings import ReceiverSettings
from handlers.upper_layer import pdu
from handlers.upper_layer.connection import Connection
from handlers.upper_layer.rejections import Rejection

ARTIM_SECONDS = 2.0
"""How long we wait for a rejected peer to close the connection (ARTIM timer, PS3.8 section 9.1.5)."""
SEND_LENGTH = 131_072
LEAST_SEND_LENGTH = 256

DataValue = tuple[int, int, memoryview]
"""A presentation data value: context identifier, message control header, fragment (valid until the next read)."""


@dataclass(frozen=True, kw_only=True)
class PresentationContext:
    """An accepted presentation context; ``peer_is_scp`` says whether the peer also accepts requests of this class."""

    identifier: int
    abstract_syntax: str
    transfer_syntax: str
    peer_is_scp: bool


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """The positive answer to a request: one answer per proposed context, and the accepted ones by identifier."""

    answers: Sequence[pdu.AnsweredContext]
    contexts: Mapping[int, PresentationContext]


class DataTransfer:
    """The data transfer phase of an association, whoever opened it. For one thread only, except ``abort``."""

    def __init__(
        self,
        connection: Connection,
        peer: Peer,
        *,
        maximum_pdu_length: int,
        network_seconds: float,
        idle_seconds: float,
    ) -> None:
        self.connection = connection
        self.peer = peer
        self.contexts: Mapping[int, PresentationContext] = {}
        self.fragment_length = SEND_LENGTH - pdu.PDV.size
        """Most bytes in one fragment that the peer accepts."""
        self._network_seconds = network_seconds
        self._idle_seconds = idle_seconds
        self._buffer = bytearray(maximum_pdu_length)
        self._values: list[DataValue] = []

    def limit_fragments(self, maximum_length: int) -> None:
        """Send no longer fragments than the peer's maximum length says; 0 means no limit."""
        if maximum_length:
            length = max(min(maximum_length, SEND_LENGTH), LEAST_SEND_LENGTH)
            self.fragment_length = length - pdu.PDV.size

    def next_value(self) -> DataValue:
        """The next presentation data value.

        Raises:
            AssociationReleased: the peer released the association, and we answered.
            AssociationAborted, ProtocolViolation, PeerTimeout: the association cannot go on.
        """
        while not self._values:
            self._read_data()
        return self._values.pop()

    def has_pending_data(self) -> bool:
        """Whether a value, or part of one, has already arrived."""
        return bool(self._values) or self.connection.readable()

    def send_values(self, values: Iterable[bytes]) -> None:
        """Send encoded presentation data values, whose fragments have at most ``fragment_length`` bytes.

        Small ones go out together: a command that waits for its dataset costs the peer a wake-up, and each write
        costs us one.
        """
        together: list[bytes] = []
        length = 0
        for value in values:
            together.append(value)
            length += len(value)
            if length >= SEND_LENGTH:
                self._send(b"".join(together))
                together, length = [], 0
        if together:
            self._send(b"".join(together))

    def abort(self, *, by_user: bool = False) -> None:
        """Send an A-ABORT without waiting; never raises. Callable from any thread."""
        self.connection.send_at_once(pdu.ABORT_BY_USER if by_user else pdu.ABORT_BY_PROVIDER)

    def _read_data(self) -> None:
        kind, length = self._read_header(None)
        deadline = time.monotonic() + self._network_seconds
        if kind == pdu.P_DATA_TF:
            if not 6 <= length <= len(self._buffer):
                raise ProtocolViolation("a P-DATA-TF is longer than was negotiated, or too short")
            view = self.connection.read_into(memoryview(self._buffer)[:length], deadline)
            self._values = pdu.split_data(view, self.contexts)
            self._values.reverse()
        elif kind == pdu.A_RELEASE_RQ and length == 4:
            self.connection.read_into(memoryview(bytearray(4)), deadline)
            self._send(pdu.RELEASE_RP)
            raise AssociationReleased
        elif kind == pdu.A_ABORT:
            raise AssociationAborted("the peer aborted")
        else:
            raise ProtocolViolation(f"a PDU of type {kind:02X} was not expected")

    def _read_header(self, deadline: float | None) -> tuple[int, int]:
        """Read a PDU's type and length; without a deadline the idle timeout applies to the first byte."""
        head = memoryview(bytearray(pdu.HEADER.size))
        got = 0
        if deadline is None:
            got = self.connection.read_some(head, time.monotonic() + self._idle_seconds)
            deadline = time.monotonic() + self._network_seconds
        self.connection.read_into(head[got:], deadline)
        kind, length = pdu.HEADER.unpack(head)
        return kind, length

    def _send(self, data: bytes) -> None:
        self.connection.send(data, time.monotonic() + self._network_seconds)


class Association(DataTransfer):
    """An association that a peer opens on a connected socket. For one thread only, except ``abort``."""

    def __init__(
        self,
        connected: socket.socket,
        address: str,
        settings: ReceiverSettings,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        super().__init__(
            Connection(connected),
            Peer(calling_ae="", called_ae="", address=address, association=uuid.uuid4().hex),
            maximum_pdu_length=settings.maximum_pdu_length,
            network_seconds=settings.network_timeout_seconds,
            idle_seconds=settings.idle_timeout_seconds,
        )
        self.opened_at = time.monotonic()
        self.settings = settings
        self._tls = tls

    @property
    def identifier(self) -> str:
        """The identifier of this association in the log and the index."""
        return self.peer.association

    def read_request(self) -> pdu.AssociateRequest:
        """Do the TLS handshake, if any, and read the A-ASSOCIATE-RQ, which sets the AE titles of ``peer``.

        Raises:
            HandshakeFailed, ProtocolViolation, PeerTimeout, AssociationAborted: there is no valid request.
        """
        deadline = time.monotonic() + self.settings.acse_timeout_seconds
        if self._tls is not None:
            self.connection.secure(self._tls, self.settings.acse_timeout_seconds)
        kind, length = self._read_header(deadline)
        if kind != pdu.A_ASSOCIATE_RQ or length > pdu.MAXIMUM_ASSOCIATE_LENGTH:
            raise ProtocolViolation("the first PDU is no A-ASSOCIATE-RQ of sensible length")
        data = self.connection.read_into(memoryview(bytearray(length)), deadline)
        request = pdu.parse_associate_request(bytes(data))
        self.peer = Peer(
            calling_ae=request.calling_ae,
            called_ae=request.called_ae,
            address=self.peer.address,
            association=self.peer.association,
        )
        return request

    def accept(self, request: pdu.AssociateRequest, acceptance: Acceptance) -> None:
        """Answer with an A-ASSOCIATE-AC, which establishes the association."""
        self.limit_fragments(request.maximum_length)
        self.contexts = acceptance.contexts
        self._send(
            pdu.encode_associate_accept(
                request,
                acceptance.answers,
                self.settings.maximum_pdu_length,
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION_NAME,
            )
        )

    def reject(self, rejection: Rejection) -> None:
        """Answer with an A-ASSOCIATE-RJ."""
        self._send(pdu.encode_reject(rejection.result, rejection.source, rejection.reason))

    def wait_for_close(self) -> None:
        """Wait until a rejected peer closes the connection, at most ``ARTIM_SECONDS`` (Sta13)."""
        deadline = time.monotonic() + ARTIM_SECONDS
        try:
            while True:
                self.connection.read_some(memoryview(self._buffer), deadline)
        except (AssociationAborted, PeerTimeout):
            return
