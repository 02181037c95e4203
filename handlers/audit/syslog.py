"""Audit messages to a syslog server over TLS, sent by a thread of their own so that no server delays the work.

References: PS3.15 section A.6 (syslog over TLS), RFC 5424 (format), RFC 5425 (framing).
"""

from __future__ import annotations

import logging
import os
import queue
import socket
import ssl
import threading
import time
from datetime import datetime
from enum import IntEnum

from db.retry import SYSLOG
from handlers.errors import TlsMisconfigured
from handlers.settings import Syslog
from handlers.upper_layer.tls import client_context, failure_reason

log = logging.getLogger("overread.syslog")

CAPACITY = 10_000
"""Most messages that wait for the server; more are dropped here and remain only in the file."""
CONNECT_SECONDS = 10.0
SEND_SECONDS = 10.0
CLOSE_SECONDS = 5.0
POLL_SECONDS = 0.5
FACILITY = 10
"""Security and authorization (PS3.15 section A.6)."""
MESSAGE_ID = "DICOM+RFC3881"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Severity(IntEnum):
    """The severities of RFC 5424 table 2 that PS3.15 section A.6 uses."""

    WARNING = 4
    """An event that a person should look at."""
    NOTICE = 5
    """A normal event."""


def frame(at: datetime, message: bytes, severity: Severity, host: str) -> bytes:
    """A syslog message (RFC 5424) with its length in front (RFC 5425)."""
    stamp = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    head = f"<{FACILITY * 8 + severity}>1 {stamp} {host} overread {os.getpid()} {MESSAGE_ID} - "
    body = head.encode() + BYTE_ORDER_MARK + message
    return str(len(body)).encode() + b" " + body


class SyslogSender:
    """Queues messages without waiting and sends them in order when the server accepts them."""

    def __init__(self, settings: Syslog) -> None:
        self.settings = settings
        self._host = socket.gethostname() or "-"
        self._queue: queue.Queue[bytes] = queue.Queue(CAPACITY)
        self._dropped = 0
        self._closing = threading.Event()
        self._deadline = 0.0
        self._connection: ssl.SSLSocket | None = None
        self._thread = threading.Thread(target=self._run, name="syslog", daemon=True)
        self._thread.start()

    def put(self, at: datetime, message: bytes, severity: Severity) -> None:
        """Queue one message; if the queue is full, drop and count it."""
        try:
            self._queue.put_nowait(frame(at, message, severity, self._host))
        except queue.Full:
            if not self._dropped:
                log.error("syslog_full reason=messages are only in the file for now")
            self._dropped += 1

    def close(self) -> None:
        """Send what is queued, for at most ``CLOSE_SECONDS``, and end the thread."""
        self._deadline = time.monotonic() + CLOSE_SECONDS
        self._closing.set()
        self._thread.join(CLOSE_SECONDS + CONNECT_SECONDS)

    def _run(self) -> None:
        failures = 0
        unsent: bytes | None = None
        while not self._finished(unsent):
            try:
                unsent = unsent or self._queue.get(timeout=POLL_SECONDS)
                self._send(unsent)
            except queue.Empty:
                continue
            except (OSError, TlsMisconfigured) as error:
                self._disconnect()
                reason = failure_reason(error) if isinstance(error, OSError) else error
                log.warning("syslog_unreachable server=%s reason=%s", self.settings.host, reason)
                failures += 1
                self._closing.wait(SYSLOG.pause(failures))
            else:
                unsent, failures = None, 0
                if self._dropped and self._queue.qsize() < CAPACITY // 2:
                    log.error("syslog_lost messages=%d", self._dropped)
                    self._dropped = 0
        self._disconnect()

    def _finished(self, unsent: bytes | None) -> bool:
        if not self._closing.is_set():
            return False
        return (unsent is None and self._queue.empty()) or time.monotonic() > self._deadline

    def _send(self, data: bytes) -> None:
        if self._connection is not None and self._closed_by_server(self._connection):
            self._disconnect()
        if self._connection is None:
            self._connection = self._connect()
        self._connection.settimeout(SEND_SECONDS)
        self._connection.sendall(data)

    def _connect(self) -> ssl.SSLSocket:
        context = client_context(self.settings.tls)
        plain = socket.create_connection((self.settings.host, self.settings.port), CONNECT_SECONDS)
        try:
            return context.wrap_socket(plain, server_hostname=self.settings.host)
        except OSError:
            plain.close()
            raise

    def _closed_by_server(self, connection: ssl.SSLSocket) -> bool:
        """Whether the server has closed the connection: the next message would be lost without an error."""
        connection.settimeout(0)
        try:
            return not connection.recv(1)
        except ssl.SSLWantReadError:
            return False
        except OSError:
            return True

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
