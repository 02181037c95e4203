"""One accepted association: reads and writes PDUs within deadlines and hands commands to services.

The acceptor is our own because it is the hot path and faces every peer: bytes go from the socket to
their service without a copy more than needed, and no length or silence of a peer can hold it for long.

References: PS3.8 section 9.2 (state machine), PS3.7 section 9.3 (message exchange).
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import BinaryIO

from handlers.acceptor import access
from handlers.dimse.commands import (
    C_CANCEL_RQ,
    MAXIMUM_COMMAND_LENGTH,
    Command,
    decode_command,
    encode_command,
)
from handlers.dimse.uids import (
    EXPLICIT_LITTLE,
    IMPLEMENTATION_CLASS_UID,
    IMPLEMENTATION_VERSION,
    IMPLICIT_LITTLE,
    QUERY_RETRIEVE,
    STORAGE_COMMITMENT,
    VERIFICATION,
    storage_sop_classes,
    transfer_syntaxes,
)
from handlers.errors import (
    AssociationAborted,
    AssociationReleased,
    HandshakeFailed,
    PeerTimeout,
    ProtocolViolation,
)
from handlers.settings import ReceiverSettings
from handlers.upper_layer import pdu
from handlers.upper_layer.tls import explain

ARTIM_SECONDS = 2.0
"""How long a rejected peer has to close the connection (ARTIM timer, PS3.8 section 9.1.5)."""
LOOK_SECONDS = 1.0
"""The socket's own timeout: how often a silent peer's deadline is looked at."""
MAXIMUM_IDENTIFIER_LENGTH = 1_048_576
SEND_LENGTH = 131_072


@dataclass(frozen=True, kw_only=True)
class PresentationContext:
    """An accepted presentation context. ``peer_is_scp``: the peer also accepts requests of this class."""

    identifier: int
    abstract_syntax: str
    transfer_syntax: str
    peer_is_scp: bool


@dataclass(frozen=True, kw_only=True)
class Message:
    """A command that arrived; its dataset, where it has one, is still to be read."""

    context: PresentationContext
    command: Command


class Association:
    """An association on a connected socket, used by one thread."""

    def __init__(
        self,
        connection: socket.socket,
        address: str,
        settings: ReceiverSettings,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self.identifier = uuid.uuid4().hex
        self.opened_at = time.monotonic()
        self.peer_address = address
        self.calling_ae = ""
        self.called_ae = ""
        self.contexts: Mapping[int, PresentationContext] = {}
        self.settings = settings
        self._socket = connection
        self._tls = tls
        self._thread = 0
        self._buffer = bytearray(settings.maximum_pdu_length)
        self._pdvs: list[tuple[int, int, memoryview]] = []
        self._dataset_of: int | None = None
        self._peer_maximum = SEND_LENGTH
        look = struct.pack("ll", int(LOOK_SECONDS), 0)
        connection.setblocking(True)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, look)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, look)

    # Establishing

    def negotiate(
        self,
        admit: Callable[[], access.Rejection | None],
        before_rejecting: Callable[[access.Rejection], None] = lambda _: None,
    ) -> access.Rejection | None:
        """Read the A-ASSOCIATE-RQ and answer it; the rejection that was sent, or None.

        ``admit`` is asked last, for a request that is in order: it takes a place or gives a rejection.
        """
        deadline = time.monotonic() + self.settings.acse_timeout_seconds
        self._thread = threading.get_ident()
        if self._tls is not None:
            self._secure(self._tls)
        kind, length = self._read_header(deadline)
        if kind != pdu.A_ASSOCIATE_RQ or length > pdu.MAXIMUM_ASSOCIATE_LENGTH:
            raise ProtocolViolation("the first PDU is no A-ASSOCIATE-RQ of sensible length")
        data = bytes(self._read_into(memoryview(bytearray(length)), deadline))
        request = pdu.parse_associate_request(data)
        self.calling_ae, self.called_ae = request.calling_ae, request.called_ae
        if request.application_context.encode() != pdu.APPLICATION_CONTEXT:
            reject: access.Rejection | None = access.CONTEXT_NOT_SUPPORTED
        else:
            reject = access.judge(self.settings, request.calling_ae, request.called_ae, self.peer_address)
        if reject is None:
            reject = admit()
        if reject is not None:
            before_rejecting(reject)
            self._send(pdu.encode_reject(reject.result, reject.source, reject.reason))
            return reject
        if request.maximum_length:
            self._peer_maximum = max(min(request.maximum_length, SEND_LENGTH), 256)
        roles = {role.sop_class_uid: role for role in request.roles}
        answers: list[pdu.AnsweredContext] = []
        accepted: dict[int, PresentationContext] = {}
        for proposed in request.contexts:
            answer = self._answer(proposed)
            answers.append(answer)
            if answer.result == 0:
                role = roles.get(proposed.abstract_syntax)
                accepted[proposed.identifier] = PresentationContext(
                    identifier=proposed.identifier,
                    abstract_syntax=proposed.abstract_syntax,
                    transfer_syntax=answer.transfer_syntax,
                    peer_is_scp=role is not None and role.scp,
                )
        self.contexts = accepted
        self._send(
            pdu.encode_associate_accept(
                data[:68],
                answers,
                request.roles,
                self.settings.maximum_pdu_length,
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION,
            )
        )
        return None

    def _secure(self, tls: ssl.SSLContext) -> None:
        """Shake hands in this association's own thread; a silent peer has the time of the A-ASSOCIATE-RQ."""
        plain = self._socket
        plain.settimeout(self.settings.acse_timeout_seconds)
        try:
            self._socket = tls.wrap_socket(plain, server_side=True, do_handshake_on_connect=False)
            self._socket.do_handshake()
        except TimeoutError:
            raise PeerTimeout("the TLS handshake took too long") from None
        except ssl.SSLEOFError:
            raise AssociationAborted("the peer closed the connection in the TLS handshake") from None
        except ssl.SSLError as error:
            raise HandshakeFailed(f"the TLS handshake failed: {explain(error)}") from None
        except OSError as error:
            raise AssociationAborted(f"the connection broke: {error.strerror}") from None
        self._socket.settimeout(LOOK_SECONDS)

    def _answer(self, proposed: pdu.ProposedContext) -> pdu.AnsweredContext:
        syntax = proposed.abstract_syntax
        if syntax in storage_sop_classes() or syntax in self.settings.private_sop_classes:
            supported = transfer_syntaxes()
        elif syntax in (VERIFICATION, STORAGE_COMMITMENT) or syntax in QUERY_RETRIEVE:
            supported = frozenset({IMPLICIT_LITTLE, EXPLICIT_LITTLE})
        else:
            return pdu.AnsweredContext(
                identifier=proposed.identifier, result=3, transfer_syntax=IMPLICIT_LITTLE
            )
        chosen = next((ts for ts in proposed.transfer_syntaxes if ts in supported), None)
        return pdu.AnsweredContext(
            identifier=proposed.identifier,
            result=4 if chosen is None else 0,
            transfer_syntax=chosen or IMPLICIT_LITTLE,
        )

    # Receiving

    def receive(self) -> Message:
        """The next command.

        Raises:
            AssociationReleased: the peer is done; the release was answered.
            AssociationAborted, ProtocolViolation, PeerTimeout: the association is over.
        """
        if self._dataset_of is not None:
            for _ in self.dataset():
                pass
        parts = bytearray()
        context_id: int | None = None
        while True:
            identifier, control, data = self._next_pdv()
            if not control & 1 or context_id not in (None, identifier):
                raise ProtocolViolation("data where a command was expected")
            context_id = identifier
            parts += data
            if len(parts) > MAXIMUM_COMMAND_LENGTH:
                raise ProtocolViolation("the command is too long")
            if control & 2:
                break
        command = decode_command(bytes(parts))
        if command.has_dataset:
            self._dataset_of = context_id
        return Message(context=self.contexts[context_id], command=command)

    def dataset(self) -> Iterator[memoryview]:
        """The fragments of the dataset of the command received last; each is valid until the next."""
        while self._dataset_of is not None:
            identifier, control, data = self._next_pdv()
            if control & 1 or identifier != self._dataset_of:
                raise ProtocolViolation("another message begins in the middle of a dataset")
            if control & 2:
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
        if not self._pdvs and not self._readable():
            return False
        command = self.receive().command
        if command.command_field != C_CANCEL_RQ:
            raise ProtocolViolation("a request during an operation that was not finished")
        return command.message_id_responded_to == message_id

    def _readable(self) -> bool:
        buffered = isinstance(self._socket, ssl.SSLSocket) and self._socket.pending() > 0
        if buffered:
            return True
        waiting = select.poll()  # select.select() takes no descriptor above 1023
        waiting.register(self._socket, select.POLLIN)
        return bool(waiting.poll(0))

    def _next_pdv(self) -> tuple[int, int, memoryview]:
        while not self._pdvs:
            self._read_pdata()
        return self._pdvs.pop()

    def _read_pdata(self) -> None:
        kind, length = self._read_header(None)
        deadline = time.monotonic() + self.settings.network_timeout_seconds
        if kind == pdu.P_DATA_TF:
            if not 6 <= length <= len(self._buffer):
                raise ProtocolViolation("a P-DATA-TF is longer than was negotiated, or too short")
            self._split(self._read_into(memoryview(self._buffer)[:length], deadline))
        elif kind == pdu.A_RELEASE_RQ and length == 4:
            self._read_into(memoryview(bytearray(4)), deadline)
            self._send(pdu.RELEASE_RP)
            raise AssociationReleased
        elif kind == pdu.A_ABORT:
            raise AssociationAborted("the peer aborted")
        else:
            raise ProtocolViolation(f"a PDU of type {kind:02X} was not expected")

    def _split(self, view: memoryview) -> None:
        position = 0
        pdvs = []
        while position < len(view):
            if position + 6 > len(view):
                raise ProtocolViolation("a presentation data value is cut off")
            length, identifier, control = pdu.PDV.unpack_from(view, position)
            end = position + 4 + length
            if length < 2 or end > len(view):
                raise ProtocolViolation("a presentation data value has a wrong length")
            if identifier not in self.contexts:
                raise ProtocolViolation("a presentation context was used that was not accepted")
            pdvs.append((identifier, control, view[position + 6 : end]))
            position = end
        pdvs.reverse()
        self._pdvs = pdvs

    def _read_header(self, deadline: float | None) -> tuple[int, int]:
        """Read the six bytes of a PDU's head; without a deadline the first may take the idle time."""
        head = memoryview(bytearray(6))
        if deadline is None:
            got = self._receive(head, time.monotonic() + self.settings.idle_timeout_seconds)
            deadline = time.monotonic() + self.settings.network_timeout_seconds
            self._read_into(head[got:], deadline)
        else:
            self._read_into(head, deadline)
        kind, length = pdu.HEADER.unpack(head)
        return kind, length

    def _read_into(self, view: memoryview, deadline: float) -> memoryview:
        position = 0
        while position < len(view):
            position += self._receive(view[position:], deadline)
        return view

    def _receive(self, view: memoryview, deadline: float) -> int:
        while True:
            if time.monotonic() > deadline:
                raise PeerTimeout("the peer sent nothing, or too slowly")
            try:
                count = self._socket.recv_into(view)
            except (BlockingIOError, TimeoutError):
                continue
            except OSError as error:
                raise AssociationAborted(f"the connection broke: {error.strerror}") from None
            if count == 0:
                raise AssociationAborted("the peer closed the connection")
            return count

    # Sending

    def send(self, context_id: int, command: Command, data: bytes | BinaryIO | None = None) -> None:
        """Send a command and, where it has one, its dataset, in fragments that the peer takes."""
        head = pdu.encode_data(context_id, encode_command(command), command=True, last=True)
        if data is None:
            self._send(head)
            return
        self._send(head)
        step = self._peer_maximum - 6
        if isinstance(data, bytes):
            pieces: Iterator[bytes] = (data[i : i + step] for i in range(0, len(data), step))
        else:
            read = data.read
            pieces = iter(lambda: read(step), b"")
        piece = next(pieces, b"")
        while True:
            following = next(pieces, None)
            self._send(pdu.encode_data(context_id, piece, command=False, last=following is None))
            if following is None:
                return
            piece = following

    def _send(self, data: bytes) -> None:
        deadline = time.monotonic() + self.settings.network_timeout_seconds
        view = memoryview(data)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except (BlockingIOError, TimeoutError):
                if time.monotonic() > deadline:
                    raise PeerTimeout("the peer stopped reading") from None
            except OSError as error:
                raise AssociationAborted(f"the connection broke: {error.strerror}") from None

    def abort(self, *, by_user: bool = False) -> None:
        """Tell the peer that it is over, as far as it still listens."""
        data = pdu.ABORT_BY_USER if by_user else pdu.ABORT_BY_PROVIDER
        try:
            if not isinstance(self._socket, ssl.SSLSocket):
                self._socket.send(data, socket.MSG_DONTWAIT)
            elif threading.get_ident() == self._thread:
                # Only the association's own thread may touch its TLS state; from others the connection just ends.
                self._socket.settimeout(0)
                self._socket.send(data)
        except OSError:
            return

    def wait_for_close(self) -> None:
        """Let a rejected peer read the answer: it closes the connection, or we do when its time is up (Sta13)."""
        deadline = time.monotonic() + ARTIM_SECONDS
        try:
            while True:
                self._receive(memoryview(self._buffer), deadline)
        except (AssociationAborted, PeerTimeout):
            return

    def interrupt(self) -> None:
        """End the connection from another thread; the association's own one then comes to its end."""
        try:
            # Past ssl.SSLSocket.shutdown, which would drop the TLS state that the other thread uses.
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        except OSError:
            return

    def close(self) -> None:
        """Close the connection; safe from another thread, whose receive then ends."""
        self.interrupt()
        self._socket.close()


Service = Callable[[Association, Message], None]
"""Answers one command of an association."""
