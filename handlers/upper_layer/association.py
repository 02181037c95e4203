"""An association that a peer opens: its request, our answer, and then presentation data values.

We have our own implementation because this is the hot path and faces every peer: bytes go from the socket to the
service with as few copies as possible.

References: PS3.8 section 9.2 (state machine).
"""

from __future__ import annotations

import socket
import ssl
import time
import uuid
from collections.abc import Mapping, Sequence
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


class Association:
    """An association on a connected socket. For one thread only, except ``abort``."""

    def __init__(
        self,
        connected: socket.socket,
        address: str,
        settings: ReceiverSettings,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.connection = Connection(connected)
        self.opened_at = time.monotonic()
        self.settings = settings
        self.peer = Peer(calling_ae="", called_ae="", address=address, association=uuid.uuid4().hex)
        self.contexts: Mapping[int, PresentationContext] = {}
        self.fragment_length = SEND_LENGTH - pdu.PDV.size
        """Most bytes in one fragment that the peer accepts."""
        self._tls = tls
        self._buffer = bytearray(settings.maximum_pdu_length)
        self._values: list[DataValue] = []

    @property
    def identifier(self) -> str:
        """The identifier of this association in the log and the index."""
        return self.peer.association

    # Establishing

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
        if request.maximum_length:
            length = max(min(request.maximum_length, SEND_LENGTH), LEAST_SEND_LENGTH)
            self.fragment_length = length - pdu.PDV.size
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

    # Transferring data

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

    def send_value(self, context_id: int, data: bytes, *, command: bool, last: bool) -> None:
        """Send one presentation data value, of at most ``fragment_length`` bytes."""
        self._send(pdu.encode_data(context_id, data, command=command, last=last))

    def abort(self, *, by_user: bool = False) -> None:
        """Send an A-ABORT without waiting; never raises. Callable from any thread."""
        self.connection.send_at_once(pdu.ABORT_BY_USER if by_user else pdu.ABORT_BY_PROVIDER)

    def _read_data(self) -> None:
        kind, length = self._read_header(None)
        deadline = time.monotonic() + self.settings.network_timeout_seconds
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
            got = self.connection.read_some(head, time.monotonic() + self.settings.idle_timeout_seconds)
            deadline = time.monotonic() + self.settings.network_timeout_seconds
        self.connection.read_into(head[got:], deadline)
        kind, length = pdu.HEADER.unpack(head)
        return kind, length

    def _send(self, data: bytes) -> None:
        self.connection.send(data, time.monotonic() + self.settings.network_timeout_seconds)
