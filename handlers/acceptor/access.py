"""Who may associate: called AE title, and the configured sources by AE title and address."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from handlers.settings import ReceiverSettings, Source


@dataclass(frozen=True, kw_only=True)
class Rejection:
    """An A-ASSOCIATE-RJ and what the log says of it (PS3.8 table 9-21)."""

    result: int
    source: int
    reason: int
    explanation: str


CONTEXT_NOT_SUPPORTED = Rejection(
    result=1, source=1, reason=2, explanation="application context name not supported"
)
CALLING_NOT_RECOGNIZED = Rejection(
    result=1, source=1, reason=3, explanation="calling AE title not recognized"
)
CALLED_NOT_RECOGNIZED = Rejection(result=1, source=1, reason=7, explanation="called AE title not recognized")
LOCAL_LIMIT = Rejection(result=2, source=3, reason=2, explanation="local limit exceeded")


def judge(settings: ReceiverSettings, calling_ae: str, called_ae: str, address: str) -> Rejection | None:
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
