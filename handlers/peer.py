"""The peer of an association as a plain value, for storing and auditing, which need no connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer and its one association with us.

    The AE titles are empty until the association request has been read.
    """

    calling_ae: str
    called_ae: str
    address: str
    association: str
    """Our identifier of the association, recorded with every instance received over it."""
