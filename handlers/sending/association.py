"""Why there is no association with a peer; and associations for storage commitment, with pynetdicom."""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pynetdicom import AE, _config
from pynetdicom.association import Association
from pynetdicom.events import EVT_CONN_OPEN, EVT_PDU_RECV, Event, EventHandlerType
from pynetdicom.pdu import A_ABORT_RQ, A_ASSOCIATE_RJ
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import PresentationContext

from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from handlers.errors import TlsMisconfigured
from handlers.settings import Destination
from handlers.upper_layer.tls import ClientContext, client_context

# Identifiers and handler errors would carry patient data into the log.
_config.LOG_REQUEST_IDENTIFIERS = False
_config.LOG_RESPONSE_IDENTIFIERS = False
_config.LOG_HANDLER_LEVEL = "none"

REJECTION_REASONS = {
    (1, 1): "no reason given",
    (1, 2): "application context name not supported",
    (1, 3): "calling AE title not recognized",
    (1, 7): "called AE title not recognized",
    (2, 1): "no reason given",
    (2, 2): "protocol version not supported",
    (3, 1): "temporary congestion",
    (3, 2): "local limit exceeded",
}
"""By source and reason (PS3.8 table 9-21)."""
PERMANENT_REJECTIONS = {(1, 3), (1, 7)}
"""Source and reason of the permanent rejections that waiting does not cure."""


@dataclass(frozen=True, kw_only=True)
class Timeouts:
    """Seconds to wait for a peer."""

    connection: float = 10.0
    acse: float = 15.0
    dimse: float = 60.0
    network: float = 60.0


class AssociationFailed(Exception):
    """No association could be opened; ``transient`` says whether trying later can help."""

    def __init__(self, reason: str, *, transient: bool) -> None:
        super().__init__(reason)
        self.transient = transient


class NothingAccepted(AssociationFailed):
    """The peer accepted the association but none of the presentation contexts."""

    def __init__(self) -> None:
        super().__init__("the peer does not accept the SOP class or its transfer syntax", transient=False)


def open_association(
    destination: Destination,
    calling_ae: str,
    timeouts: Timeouts,
    contexts: list[PresentationContext],
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Association:
    """Open an association; no read or write on its socket waits without limit.

    Args:
        destination: the peer.
        calling_ae: our AE title.
        timeouts: how long to wait for the peer.
        contexts: the presentation contexts to propose.
        roles: the role selections to propose.
        handlers: pynetdicom handlers for requests of the peer.

    Raises:
        NothingAccepted: the peer accepts none of the presentation contexts.
        AssociationFailed: there is no association; the message says why.
    """
    entity = AE(ae_title=calling_ae)
    entity.implementation_class_uid = IMPLEMENTATION_CLASS_UID
    entity.implementation_version_name = IMPLEMENTATION_VERSION_NAME
    entity.connection_timeout = timeouts.connection
    entity.acse_timeout = timeouts.acse
    entity.dimse_timeout = timeouts.dimse
    entity.network_timeout = timeouts.network
    secured: tuple[ClientContext, str] | None = None
    if destination.tls is not None:
        try:
            secured = client_context(destination.tls), destination.tls_name or destination.host
        except TlsMisconfigured as error:
            raise AssociationFailed(str(error), transient=True) from None
    where = f"{destination.host}:{destination.port}"
    # Read from the PDU: if the answer comes before pynetdicom's thread runs, it calls the association aborted.
    answer = _PeerAnswer()
    started = time.monotonic()
    try:
        association = entity.associate(
            destination.host,
            destination.port,
            contexts=contexts,
            ae_title=destination.ae_title,
            tls_args=secured,
            ext_neg=list(roles),
            evt_handlers=[
                *handlers,
                (EVT_CONN_OPEN, answer.opened),
                (EVT_PDU_RECV, answer.received),
            ],
        )
    except (OSError, UnicodeError) as error:
        # The host name cannot be resolved, or is not a valid name.
        reason = getattr(error, "strerror", None) or str(error)
        raise AssociationFailed(f"no association with {where}: {reason}", transient=True) from None
    if association.is_established:
        connection = association.dul.socket
        bare = None if connection is None else connection.socket
        if bare is not None:
            # pynetdicom removes the timeout after connecting; a peer that stops reading would block us.
            bare.settimeout(timeouts.network)
            # Else a dataset waits until the peer has acknowledged its command.
            bare.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return association
    if isinstance(answer.first, A_ASSOCIATE_RJ):
        rejection = answer.first
        raise rejection_failure(
            rejection.result or 0, rejection.source or 0, rejection.reason_diagnostic or 0
        )
    if association.rejected_contexts:
        raise NothingAccepted
    if secured is not None and secured[0].failure is not None:
        raise AssociationFailed(f"no TLS with {where}: {secured[0].failure}", transient=True)
    if not answer.connected:
        reason = "the connection is refused, or nothing is there"
    elif isinstance(answer.first, A_ABORT_RQ):
        reason = "it aborted"
    elif time.monotonic() - started >= timeouts.acse:
        reason = f"no answer within {timeouts.acse:g} seconds"
    else:
        reason = "it closed the connection"
    raise AssociationFailed(f"no association with {where}: {reason}", transient=True)


@dataclass
class _PeerAnswer:
    """What a peer answered to an association request."""

    connected: bool = False
    first: object = None
    """The peer's first PDU."""

    def opened(self, _: Event) -> None:
        """Note that the connection is open."""
        self.connected = True

    def received(self, event: Event) -> None:
        """Note a PDU, if it is the first."""
        self.first = self.first or event.pdu


def rejection_failure(result: int, source: int, reason: int) -> AssociationFailed:
    """The failure that an A-ASSOCIATE-RJ with these fields means (PS3.8 table 9-21)."""
    text = REJECTION_REASONS.get((source, reason), f"reason {source}.{reason}")
    if result == 1 and (source, reason) in PERMANENT_REJECTIONS:
        return AssociationFailed(f"the association was rejected: {text}", transient=False)
    kind = "permanently" if result == 1 else "for now"
    return AssociationFailed(f"the association was rejected {kind}: {text}", transient=True)


def close_association(association: Association) -> None:
    """Release the association if it is still established."""
    if association.is_established:
        association.release()
