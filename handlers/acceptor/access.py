"""Which peers may associate: the called AE title must be ours, and the peer a configured source."""

from __future__ import annotations

import ipaddress

from handlers.settings import ReceiverSettings, Source
from handlers.upper_layer.rejections import CALLED_NOT_RECOGNIZED, CALLING_NOT_RECOGNIZED, Rejection


def access_refusal(
    settings: ReceiverSettings, calling_ae: str, called_ae: str, address: str
) -> Rejection | None:
    """The rejection for a peer that may not associate; None if it may."""
    if called_ae != settings.ae_title:
        return CALLED_NOT_RECOGNIZED
    if settings.allow_unknown:
        return None
    known = source_of(settings, calling_ae, address)
    return None if known is not None else CALLING_NOT_RECOGNIZED


def source_of(settings: ReceiverSettings, calling_ae: str, address: str) -> Source | None:
    """The configured source with the peer's AE title and address; None for an unknown peer."""
    return next((source for source in settings.sources if _is_peer(source, calling_ae, address)), None)


def _is_peer(source: Source, calling_ae: str, address: str) -> bool:
    if source.ae_title != calling_ae:
        return False
    if not source.hosts:
        return True
    peer = ipaddress.ip_address(address)
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return any(peer in ipaddress.ip_network(host, strict=False) for host in source.hosts)
