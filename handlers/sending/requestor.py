"""An association that we open for C-STORE or C-ECHO, over our own upper layer.

It writes to the socket in the caller's thread and lets no segment wait for another (TCP_NODELAY), so an object costs
one round trip. Nothing asks for an asynchronous operations window: few peers negotiate one (PS3.7 section D.3.3.3).

References: PS3.8 section 9.2 (state machine).
"""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Mapping, Sequence
from ssl import SSLContext

from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from handlers.errors import (
    AssociationAborted,
    NetworkError,
    PeerTimeout,
    ProtocolViolation,
    TlsMisconfigured,
)
from handlers.peer import Peer
from handlers.sending.association import AssociationFailed, NothingAccepted, Timeouts, rejection_failure
from handlers.settings import Destination
from handlers.upper_layer import pdu
from handlers.upper_layer.association import DataTransfer, PresentationContext
from handlers.upper_layer.connection import Connection
from handlers.upper_layer.tls import client_context

MAXIMUM_PDU_LENGTH = 16_384
"""What we take in one PDU: responses, which are short."""
RELEASE_SECONDS = 5.0
"""How long a peer may take to answer a release."""
MAXIMUM_MESSAGE_ID = 0xFFFF


class RequestedAssociation(DataTransfer):
    """An established association. For one thread only."""

    def __init__(self, connection: Connection, peer: Peer, timeouts: Timeouts) -> None:
        super().__init__(
            connection,
            peer,
            maximum_pdu_length=MAXIMUM_PDU_LENGTH,
            network_seconds=timeouts.network,
            idle_seconds=timeouts.dimse,
        )
        self.refused: Mapping[str, frozenset[int]] = {}
        """By SOP class, the results of its refused presentation contexts (PS3.8 table 9-18)."""
        self.established = True
        """False as soon as it was released, lost or aborted."""
        self._message_id = 0

    def next_message_id(self) -> int:
        """A Message ID that no unanswered message of this association has."""
        self._message_id = self._message_id % MAXIMUM_MESSAGE_ID + 1
        return self._message_id

    def negotiate(self, proposed: Sequence[pdu.ProposedContext], acse_seconds: float) -> None:
        """Request the association.

        Raises:
            AssociationFailed: the peer rejects it, or accepts none of the presentation contexts.
            NetworkError: there is no answer, or none that makes sense.
        """
        self._send(
            pdu.encode_associate_request(
                self.peer.called_ae,
                self.peer.calling_ae,
                proposed,
                MAXIMUM_PDU_LENGTH,
                IMPLEMENTATION_CLASS_UID,
                IMPLEMENTATION_VERSION_NAME,
            )
        )
        deadline = time.monotonic() + acse_seconds
        kind, length = self._read_header(deadline)
        if length > pdu.MAXIMUM_ASSOCIATE_LENGTH:
            raise ProtocolViolation("its answer is too long")
        body = bytes(self.connection.read_into(memoryview(bytearray(length)), deadline))
        if kind == pdu.A_ASSOCIATE_RJ and length == 4:
            raise rejection_failure(*body[1:])
        if kind == pdu.A_ABORT:
            raise AssociationAborted("it aborted")
        if kind != pdu.A_ASSOCIATE_AC:
            raise ProtocolViolation(f"its answer is a PDU of type {kind:02X}")
        self._note_contexts(proposed, pdu.parse_associate_accept(body))
        if not self.contexts:
            self.release()
            raise NothingAccepted

    def _note_contexts(self, proposed: Sequence[pdu.ProposedContext], accept: pdu.AssociateAccept) -> None:
        self.limit_fragments(accept.maximum_length)
        answers = {answer.identifier: answer for answer in accept.contexts}
        accepted: dict[int, PresentationContext] = {}
        refused: dict[str, set[int]] = {}
        for context in proposed:
            answer = answers.get(context.identifier)
            if (
                answer is not None
                and answer.result == 0
                and answer.transfer_syntax in context.transfer_syntaxes
            ):
                accepted[context.identifier] = PresentationContext(
                    identifier=context.identifier,
                    abstract_syntax=context.abstract_syntax,
                    transfer_syntax=answer.transfer_syntax,
                    peer_is_scp=True,
                )
            elif answer is not None:
                refused.setdefault(context.abstract_syntax, set()).add(answer.result)
        self.contexts = accepted
        self.refused = {sop_class: frozenset(results) for sop_class, results in refused.items()}

    def usable(self) -> bool:
        """Whether an idle association is still there: the peer has not released, aborted or closed it meanwhile."""
        return not self.has_pending_data()

    def release(self) -> None:
        """Release the association if it is established, and close the connection.

        A peer that does not answer costs ``RELEASE_SECONDS``.
        """
        if not self.established:
            return
        self.established = False
        deadline = time.monotonic() + RELEASE_SECONDS
        try:
            if self.has_pending_data():
                self.next_value()  # ends with the peer's own release, which is answered, or its abort
            self.connection.send(pdu.RELEASE_RQ, deadline)
            kind, _ = self._read_header(deadline)
            if kind != pdu.A_RELEASE_RP:
                self.abort(by_user=True)
        except PeerTimeout:
            self.abort(by_user=True)
        except NetworkError:
            pass  # the peer has ended the association: nothing is left to release
        finally:
            self.connection.close()

    def break_off(self) -> None:
        """Abort the association and close the connection."""
        self.established = False
        self.abort(by_user=True)
        self.connection.close()


def open_storage_association(
    destination: Destination, calling_ae: str, timeouts: Timeouts, proposed: Sequence[pdu.ProposedContext]
) -> RequestedAssociation:
    """Open an association; nothing on its socket waits without limit.

    Raises:
        NothingAccepted: the peer accepts none of the presentation contexts.
        AssociationFailed: there is no association; the message says why.
    """
    where = f"{destination.host}:{destination.port}"
    nowhere = f"no association with {where}"
    try:
        tls = None if destination.tls is None else client_context(destination.tls)
    except TlsMisconfigured as error:
        raise AssociationFailed(str(error), transient=True) from None
    try:
        connected = socket.create_connection((destination.host, destination.port), timeouts.connection)
    except (socket.gaierror, UnicodeError) as error:
        # The host name cannot be resolved, or is not a valid name.
        reason = getattr(error, "strerror", None) or str(error)
        raise AssociationFailed(f"{nowhere}: {reason}", transient=True) from None
    except OSError:
        reason = "the connection is refused, or nothing is there"
        raise AssociationFailed(f"{nowhere}: {reason}", transient=True) from None
    connection = Connection(connected)
    connection.acknowledge_at_once()
    peer = Peer(
        calling_ae=calling_ae,
        called_ae=destination.ae_title,
        address=destination.host,
        association=uuid.uuid4().hex,
    )
    association = RequestedAssociation(connection, peer, timeouts)
    try:
        if tls is not None:
            _secure(connection, tls, destination, timeouts)
        association.negotiate(proposed, timeouts.acse)
    except PeerTimeout:
        connection.close()
        reason = f"no answer within {timeouts.acse:g} seconds"
        raise AssociationFailed(f"{nowhere}: {reason}", transient=True) from None
    except NetworkError as error:
        association.break_off()
        raise AssociationFailed(f"{nowhere}: {error}", transient=True) from None
    except BaseException:
        connection.close()
        raise
    return association


def _secure(connection: Connection, tls: SSLContext, destination: Destination, timeouts: Timeouts) -> None:
    try:
        connection.secure(tls, timeouts.connection, destination.tls_name or destination.host)
    except NetworkError as error:
        where = f"{destination.host}:{destination.port}"
        raise AssociationFailed(f"no TLS with {where}: {error}", transient=True) from None
