"""Errors of the DICOM network room.

NetworkError
├── AssociationReleased    the peer released in order
├── AssociationAborted     the peer aborted or went away
├── HandshakeFailed        TLS did not come about: no certificate that we trust, an old version
├── ProtocolViolation      the peer sent what PS3.8 or PS3.7 do not allow; we abort
└── PeerTimeout            the peer kept us waiting for too long; we abort
ScanError                  a dataset cannot be understood
RequestRefused             a request is answered with a failure; the association goes on
TlsMisconfigured           certificates or keys cannot be used
"""

from __future__ import annotations


class NetworkError(Exception):
    """An association came to an end."""


class AssociationReleased(NetworkError):
    """The peer released the association."""


class AssociationAborted(NetworkError):
    """The peer aborted the association or closed the connection."""


class HandshakeFailed(NetworkError):
    """The peer and we did not agree on TLS; the message says why."""


class ProtocolViolation(NetworkError):
    """The peer broke the protocol."""


class PeerTimeout(NetworkError):
    """The peer did not go on in time."""


class ScanError(Exception):
    """The dataset cannot be understood; the message says why, without its values."""


class RequestRefused(Exception):
    """A request that is answered with a failure: its status and a comment without patient data."""

    def __init__(self, status: int, comment: str) -> None:
        self.status = status
        super().__init__(comment)


class TlsMisconfigured(Exception):
    """A certificate, key or CA cannot be used; the message names the files."""
