"""Whether a peer takes a SOP class in a transfer syntax; nothing is sent."""

from __future__ import annotations

from pynetdicom.presentation import build_context

from handlers.sending.association import (
    AssociationFailed,
    Timeouts,
    close_association,
    open_association,
)
from handlers.settings import Destination


def reason_not_accepted(
    destination: Destination,
    calling_ae: str,
    sop_class_uid: str,
    transfer_syntax_uid: str,
    timeouts: Timeouts | None = None,
) -> str:
    """Why a peer does not take objects of a SOP class in a transfer syntax; empty if it does.

    Args:
        destination: the peer.
        calling_ae: our AE title.
        sop_class_uid: the SOP class.
        transfer_syntax_uid: the transfer syntax.
        timeouts: how long to wait for the peer.
    """
    context = build_context(sop_class_uid, transfer_syntax_uid)
    try:
        close_association(open_association(destination, calling_ae, timeouts or Timeouts(), [context]))
    except AssociationFailed as failure:
        return str(failure)
    return ""
