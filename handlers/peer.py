"""Who is at the other end, as a value: what storing and auditing know of a peer, without its connection."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A peer, and the one association by which it talks to us.

    Before its request was read, its AE titles are empty.
    """

    calling_ae: str
    called_ae: str
    address: str
    association: str
    """Identifier of our own, the same for everything that comes this way."""
