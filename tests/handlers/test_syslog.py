"""Audit messages to a syslog server over TLS: framed by RFC 5425, in order, and never in the way."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO
from xml.etree.ElementTree import fromstring

import pytest

from db.retry import RetryPolicy
from handlers.audit import syslog
from handlers.audit.syslog import Severity, SyslogSender
from handlers.audit.trail import AuditTrail
from handlers.settings import AuditSettings, Syslog, Tls
from tests.peers.certificates import Authority
from tests.peers.waiting import free_port, wait_until

BYTE_ORDER_MARK = "\ufeff"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


class Collector:
    """A syslog server that asks for certificates and keeps what it gets."""

    def __init__(self, authority: Authority, port: int) -> None:
        issued = authority.issue("syslog")
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(issued.certificate, issued.key)
        self.context.load_verify_locations(authority.certificate)
        self.context.verify_mode = ssl.CERT_REQUIRED
        self.received: list[str] = []
        self.listener = socket.create_server(("127.0.0.1", port))
        self.connection: ssl.SSLSocket | None = None

    def serve(self) -> None:
        while True:
            try:
                plain, _ = self.listener.accept()
            except OSError:
                return
            try:
                with self.context.wrap_socket(plain, server_side=True) as connection:
                    self.connection = connection
                    stream = connection.makefile("rb")
                    while (length := self._length(stream)) > 0:
                        self.received.append(stream.read(length).decode())
            except OSError:
                continue

    @staticmethod
    def _length(stream: BinaryIO) -> int:
        digits = b""
        while (byte := stream.read(1)).isdigit():
            digits += byte
        return int(digits or b"0")


@contextmanager
def collecting(authority: Authority, port: int) -> Iterator[Collector]:
    collector = Collector(authority, port)
    thread = threading.Thread(target=collector.serve, daemon=True)
    thread.start()
    try:
        yield collector
    finally:
        collector.listener.shutdown(socket.SHUT_RDWR)
        collector.listener.close()
        if collector.connection is not None:
            try:
                socket.socket.shutdown(collector.connection, socket.SHUT_RDWR)
            except OSError:
                pass
        thread.join(5)


def server_at(port: int, authority: Authority) -> Syslog:
    issued = authority.issue("node")
    tls = Tls(certificate=issued.certificate, key=issued.key, ca=authority.certificate)
    return Syslog(host="127.0.0.1", port=port, tls=tls)


def test_messages_arrive_framed_and_in_order(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "CLOSE_SECONDS", 60)
    port = free_port()
    settings = AuditSettings(folder=tmp_path / "audit", source="OVERREAD", syslog=server_at(port, authority))
    with collecting(authority, port) as collector:
        trail = AuditTrail(settings)
        trail.started()
        trail.stopped()
        trail.close()
        wait_until(lambda: len(collector.received) == 2, 60, "both messages are there")
    heads, bodies = zip(*(line.split(f" - {BYTE_ORDER_MARK}") for line in collector.received), strict=True)
    assert all(head.startswith("<85>1 ") and head.endswith(" DICOM+RFC3881") for head in heads)
    kinds = [fromstring(body).find(".//EventTypeCode") for body in bodies]
    assert [kind.attrib["csd-code"] for kind in kinds if kind is not None] == ["110120", "110121"]
    (file,) = (tmp_path / "audit").iterdir()
    assert file.read_text().splitlines() == list(bodies)


def test_messages_wait_for_a_server_that_is_away(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "SYSLOG", RetryPolicy(first=0.05, ceiling=0.05))
    port = free_port()
    sender = SyslogSender(server_at(port, authority))
    now = datetime.now(UTC)
    sender.put(now, b"one", Severity.NOTICE)
    with collecting(authority, port) as collector:
        sender.put(now, b"two", Severity.WARNING)
        wait_until(lambda: len(collector.received) == 2, 60, "both messages are there")
        assert [line[-3:] for line in collector.received] == ["one", "two"]
        assert collector.received[1].startswith("<84>1 ")
    with collecting(authority, port) as collector:
        sender.put(now, b"six", Severity.NOTICE)
        wait_until(lambda: collector.received, 60, "the sender came back")
        assert collector.received[0][-3:] == "six"
    sender.close()


def test_server_that_takes_nothing_holds_up_nobody(
    authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(syslog, "CAPACITY", 10)
    monkeypatch.setattr(syslog, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(syslog, "CLOSE_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as mute:
        sender = SyslogSender(server_at(mute.getsockname()[1], authority))
        started = time.monotonic()
        for _ in range(1000):
            sender.put(datetime.now(UTC), b"message", Severity.NOTICE)
        assert time.monotonic() - started < 30
        sender.close()
    assert time.monotonic() - started < 30


def test_server_of_another_authority_gets_nothing(
    authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(syslog, "CLOSE_SECONDS", 0.2)
    port = free_port()
    with collecting(Authority(tmp_path), port) as collector:
        sender = SyslogSender(server_at(port, authority))
        sender.put(datetime.now(UTC), b"message", Severity.NOTICE)
        wait_until(lambda: "the certificate is not accepted" in caplog.text, 10, "the log says why")
        sender.close()
    assert collector.received == []
