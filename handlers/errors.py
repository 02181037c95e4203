"""Errors of the DICOM network room.

NetworkError
├── AssociationReleased    the peer released in order
├── AssociationAborted     the peer aborted or went away
├── HandshakeFailed        no TLS: a certificate that we do not trust, or an old version
├── ProtocolViolation      the peer sent something that PS3.8 or PS3.7 forbids; we abort
└── PeerTimeout            the peer took too long; we abort
ScanError                  a dataset cannot be parsed
RequestRefused             a request is answered with a failure; the association continues
TlsMisconfigured           certificates or keys cannot be used
"""

from __future__ import annotations


class NetworkError(Exception):
    """An association has ended."""


class AssociationReleased(NetworkError):
    """The peer released the association."""


class AssociationAborted(NetworkError):
    """The peer aborted the association or closed the connection."""


class HandshakeFailed(NetworkError):
    """The TLS handshake failed; the message says why."""


class ProtocolViolation(NetworkError):
    """The peer broke the protocol."""


class PeerTimeout(NetworkError):
    """The peer sent or accepted nothing before the deadline."""


class ScanError(Exception):
    """The dataset cannot be parsed; the message says why and quotes no values."""


class RequestRefused(Exception):
    """A request is answered with a failure: a DIMSE status and a comment without patient data."""

    def __init__(self, status: int, comment: str) -> None:
        self.status = status
        super().__init__(comment)


class TlsMisconfigured(Exception):
    """A certificate, key or CA cannot be used; the message names the files."""
