"""TLS contexts that follow DICOM's BCP 195 profiles: TLS 1.2 and 1.3, forward secrecy, authenticated encryption.

References: PS3.15 sections B.9 and B.10 (BCP 195 and non-downgrading profiles), RFC 9325.
"""

from __future__ import annotations

import logging
import ssl
import time

from handlers.errors import TlsMisconfigured
from handlers.settings import Tls

log = logging.getLogger("overread.tls")

CHECK_SECONDS = 60.0

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""For TLS 1.2 (RFC 9325 section 4.2); all suites of TLS 1.3 are acceptable."""


def server_context(tls: Tls) -> ssl.SSLContext:
    """The TLS context of a receiver.

    Raises:
        TlsMisconfigured: a file is missing, or key and certificate do not match.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _configure(context, tls)
    if tls.require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class ServerCertificates:
    """The TLS context of a receiver, which is remade when its files change, as renewed certificates do.

    Raises:
        TlsMisconfigured: as ``server_context``.
    """

    def __init__(self, tls: Tls) -> None:
        self._tls = tls
        self._seen = self._file_versions()
        self._checked_at = time.monotonic()
        self.context = server_context(tls)

    def renew(self) -> None:
        """Check the files, at most once per ``CHECK_SECONDS``; if they cannot be used, keep the previous context."""
        if time.monotonic() - self._checked_at < CHECK_SECONDS:
            return
        self._checked_at = time.monotonic()
        try:
            found = self._file_versions()
            if found == self._seen:
                return
            self.context = server_context(self._tls)
        except (OSError, TlsMisconfigured) as error:
            # For example because the certificate has been replaced, but not yet its key.
            log.error("certificate_not_renewed error=%s", error)
            return
        self._seen = found
        log.info("certificate_renewed")

    def _file_versions(self) -> list[tuple[int, int, int]]:
        files = (self._tls.certificate, self._tls.key, self._tls.ca)
        found = [file.stat() for file in files if file is not None and file.exists()]
        return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in found]


class ClientContext(ssl.SSLContext):
    """A context for one connection that records why its handshake failed, which pynetdicom only logs."""

    failure: str | None = None


class _ClientSocket(ssl.SSLSocket):
    """Records the reason for a failed handshake in its context."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            if isinstance(self.context, ClientContext):
                self.context.failure = failure_reason(error)
            raise


ClientContext.sslsocket_class = _ClientSocket


def client_context(tls: Tls) -> ClientContext:
    """The TLS context for a connection that we open; the peer's certificate must name its host and chain to the CA.

    Raises:
        TlsMisconfigured: a file is missing, or key and certificate do not match.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    _configure(context, tls)
    return context


def failure_reason(error: OSError) -> str:
    """Why TLS failed, in the library's words without references to its source code."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).replace("_", " ").lower()
    return error.strerror or type(error).__name__


def _configure(context: ssl.SSLContext, tls: Tls) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    try:
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.key)
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
    except (OSError, ssl.SSLError) as error:
        raise TlsMisconfigured(
            f"certificate {tls.certificate}, key {tls.key} or CA {tls.ca} cannot be used: {failure_reason(error)}."
        ) from error
