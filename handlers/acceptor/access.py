"""Who may associate: called AE title, and the configured sources by AE title and address."""

from __future__ import annotations

import ipaddress

from handlers.settings import ReceiverSettings, Source
from handlers.upper_layer.rejections import CALLED_NOT_RECOGNIZED, CALLING_NOT_RECOGNIZED, Rejection


def refuse_access(
    settings: ReceiverSettings, calling_ae: str, called_ae: str, address: str
) -> Rejection | None:
    """Why a peer may not associate, or None."""
    if called_ae != settings.ae_title:
        return CALLED_NOT_RECOGNIZED
    if settings.allow_unknown:
        return None
    known = source_of(settings, calling_ae, address)
    return None if known is not None else CALLING_NOT_RECOGNIZED


def source_of(settings: ReceiverSettings, calling_ae: str, address: str) -> Source | None:
    """The configured source that a peer is, None for an unknown one."""
    return next((source for source in settings.sources if _is(source, calling_ae, address)), None)


def _is(source: Source, calling_ae: str, address: str) -> bool:
    if source.ae_title != calling_ae:
        return False
    if not source.hosts:
        return True
    peer = ipaddress.ip_address(address)
    if isinstance(peer, ipaddress.IPv6Address) and peer.ipv4_mapped is not None:
        peer = peer.ipv4_mapped
    return any(peer in ipaddress.ip_network(host, strict=False) for host in source.hosts)
