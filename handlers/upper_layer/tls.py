"""TLS contexts by the BCP 195 profiles of DICOM: TLS 1.2 and 1.3, forward secrecy, authenticated encryption.

References: PS3.15 sections B.9 and B.10 (BCP 195 and non-downgrading profiles), RFC 9325.
"""

from __future__ import annotations

import logging
import ssl
import time

from handlers.errors import TlsMisconfigured
from handlers.settings import Tls

log = logging.getLogger("overread.tls")

LOOK_SECONDS = 60.0

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM"
"""For TLS 1.2 (RFC 9325 section 4.2); the suites of TLS 1.3 are all fit."""


def server_context(tls: Tls) -> ssl.SSLContext:
    """What a receiver shakes hands with.

    Raises:
        TlsMisconfigured: a file is missing or does not fit.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _complete(context, tls)
    if tls.require_client_certificate:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


class ServerCertificates:
    """What a receiver shakes hands with, made anew when a file is replaced, as renewed certificates are."""

    def __init__(self, tls: Tls) -> None:
        """Raises TlsMisconfigured as ``server_context`` does."""
        self._tls = tls
        self._seen = self._versions()
        self._looked_at = time.monotonic()
        self.context = server_context(tls)

    def renew(self) -> None:
        """Look at the files, once a minute; those that do not fit together leave the former context in use."""
        if time.monotonic() - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = time.monotonic()
        try:
            found = self._versions()
            if found == self._seen:
                return
            self.context = server_context(self._tls)
        except (OSError, TlsMisconfigured) as error:
            # Between the replacement of the certificate and that of its key, for example.
            log.error("certificate_not_renewed error=%s", error)
            return
        self._seen = found
        log.info("certificate_renewed")

    def _versions(self) -> list[tuple[int, int, int]]:
        files = (self._tls.certificate, self._tls.key, self._tls.ca)
        found = [file.stat() for file in files if file is not None and file.exists()]
        return [(status.st_ino, status.st_mtime_ns, status.st_size) for status in found]


class ClientContext(ssl.SSLContext):
    """A context for one connection that keeps why its handshake failed: pynetdicom only logs it."""

    failure: str | None = None


class _ClientSocket(ssl.SSLSocket):
    """Notes a failed handshake in its context."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except OSError as error:
            if isinstance(self.context, ClientContext):
                self.context.failure = explain(error)
            raise


ClientContext.sslsocket_class = _ClientSocket


def client_context(tls: Tls) -> ClientContext:
    """What we shake hands with as a requestor: the peer's certificate has to name its host and chain to the CA.

    Raises:
        TlsMisconfigured: a file is missing or does not fit.
    """
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    _complete(context, tls)
    return context


def explain(error: OSError) -> str:
    """What went wrong with TLS, in the library's words without its places in the source."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"the certificate is not accepted: {error.verify_message}"
    if isinstance(error, ssl.SSLError) and error.reason:
        return str(error.reason).replace("_", " ").lower()
    return error.strerror or type(error).__name__


def _complete(context: ssl.SSLContext, tls: Tls) -> None:
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
            f"certificate {tls.certificate}, key {tls.key} or CA {tls.ca} cannot be used: {explain(error)}."
        ) from error
