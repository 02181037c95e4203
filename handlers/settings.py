"""Settings of the DICOM network room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """A peer that may associate. ``hosts`` are addresses or networks; none: any address."""

    name: str
    ae_title: str
    hosts: tuple[str, ...] = ()
    maximum_associations: int | None = None
    """At one time in one process; None: as many as there are places."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files in PEM form. ``ca`` is what peers' certificates have to chain to.

    Without ``certificate`` and ``key`` we are a requestor that does not say who it is.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    require_client_certificate: bool = True
    port: int | None = None
    """Receivers speak TLS on this port, beside their port in clear; None: their only port speaks TLS."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A peer that we send to; ``tls`` None: in clear. ``tls_name``: whom its certificate names, if not ``host``."""

    name: str
    ae_title: str
    host: str
    port: int
    tls: Tls | None = None
    tls_name: str | None = None
    commit: bool = False
    """Results count as delivered when the peer has taken responsibility by storage commitment."""


@dataclass(frozen=True, kw_only=True)
class Syslog:
    """A syslog server that is reached over TLS."""

    host: str
    port: int
    tls: Tls


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Where the audit trail goes; ``source`` says who reports."""

    folder: Path
    source: str
    patients: bool = False
    """Patient IDs and the values of queries are in the messages too, as PS3.15 has it."""
    syslog: Syslog | None = None


@dataclass(frozen=True, kw_only=True)
class ReceiverSettings:
    """How a receiver process listens, whom it lets in and what it bears."""

    ae_title: str
    host: str
    port: int
    spool: Path
    allow_unknown: bool = True
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    private_sop_classes: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()
    """Keywords to index besides the usual ones, because routing rules ask for them."""
    maximum_pdu_length: int = 262_144
    """Bytes of variable part that a peer may send in one P-DATA-TF (PS3.8 annex D.1)."""
    acse_timeout_seconds: float = 10.0
    """From the connection to the end of the A-ASSOCIATE-RQ."""
    network_timeout_seconds: float = 30.0
    """From the first to the last byte of one PDU, and for one PDU that we send."""
    idle_timeout_seconds: float = 300.0
    """Between two PDUs of an association."""
    maximum_associations: int = 100
    """At one time in one process; further ones are rejected as a transient local limit."""
    tls: Tls | None = None
    """None: nothing but connections in clear."""
    reserve_bytes: int = 0
    """Room on the spool's disk below which instances are refused as out of resources."""
