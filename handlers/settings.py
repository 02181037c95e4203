"""Settings of the DICOM network room."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Source:
    """A peer that may associate. ``hosts`` are IP addresses or networks; if empty, any address will do."""

    name: str
    ae_title: str
    hosts: tuple[str, ...] = ()
    maximum_associations: int | None = None
    """Limit at any one time in one process; None: only the limit of the receiver applies."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Files in PEM form. Peers' certificates must chain to ``ca``.

    A requestor without ``certificate`` and ``key`` presents no certificate.
    """

    certificate: Path | None = None
    key: Path | None = None
    ca: Path | None = None
    require_client_certificate: bool = True
    port: int | None = None
    """The TLS port of a receiver, beside its unencrypted port; None: its only port speaks TLS."""


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A peer that we send to, without encryption if ``tls`` is None.

    ``tls_name`` is the name in the peer's certificate, where that is not ``host``.
    """

    name: str
    ae_title: str
    host: str
    port: int
    tls: Tls | None = None
    tls_name: str | None = None
    associations: int = 2
    """Most associations at any one time that take results to it."""
    commit: bool = False
    """Results count as delivered only after the peer has committed to store them (storage commitment)."""


@dataclass(frozen=True, kw_only=True)
class Syslog:
    """A syslog server, reached over TLS."""

    host: str
    port: int
    tls: Tls


@dataclass(frozen=True, kw_only=True)
class AuditSettings:
    """Where the audit trail is written; ``source`` is the Audit Source ID in each message."""

    folder: Path
    source: str
    patients: bool = False
    """Messages also contain patient IDs and the values of queries, as PS3.15 section A.5 specifies."""
    syslog: Syslog | None = None


@dataclass(frozen=True, kw_only=True)
class ReceiverSettings:
    """How a receiver process listens, whom it admits, and its limits."""

    ae_title: str
    host: str
    port: int
    spool: Path
    allow_unknown: bool = True
    sources: tuple[Source, ...] = ()
    destinations: tuple[Destination, ...] = ()
    private_sop_classes: tuple[str, ...] = ()
    attributes: frozenset[str] = frozenset()
    """Keywords to index in addition to the usual ones, because routing rules use them."""
    maximum_pdu_length: int = 262_144
    """Most bytes in the variable field of a P-DATA-TF from a peer (PS3.8 section D.1)."""
    acse_timeout_seconds: float = 10.0
    """Longest time from the connection to the end of the A-ASSOCIATE-RQ."""
    network_timeout_seconds: float = 30.0
    """Longest time for one PDU, received or sent, from its first byte to its last."""
    idle_timeout_seconds: float = 300.0
    """Longest time between two PDUs of an association."""
    maximum_associations: int = 100
    """Limit at any one time in one process; further requests are rejected as transient, "local limit exceeded"."""
    tls: Tls | None = None
    """None: connections are not encrypted."""
    reserve_bytes: int = 0
    """Instances are refused as "out of resources" when less than this is free on the spool's disk."""
