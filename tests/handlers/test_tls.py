"""TLS with DCMTK's tools: both directions, strangers, stalled handshakes, old protocol versions."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from handlers.sending.association import Timeouts
from handlers.sending.sender import Sender, SendResult, echo
from handlers.settings import Destination, Tls
from tests.handlers.conftest import StartReceiver, write_object
from tests.handlers.test_audit import codes, kept_in, messages
from tests.peers.certificates import Authority, Certificate
from tests.peers.dcmtk import run, storescu
from tests.peers.files import file_to_send
from tests.peers.programs import program
from tests.peers.waiting import answers, free_port, wait_until

pytestmark = pytest.mark.peer

SHORT = Timeouts(connection=3, acse=5, dimse=5, network=5)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def tls_of(authority: Authority, name: str, **changes: Any) -> Tls:
    issued = authority.issue(name)
    usual = Tls(certificate=issued.certificate, key=issued.key, ca=authority.certificate)
    return replace(usual, **changes)


def secure_storescu(
    port: int, path: Path, ca: Path, client: Certificate | None, *further: str
) -> subprocess.CompletedProcess[str]:
    identity = ["+tla"] if client is None else ["+tls", str(client.key), str(client.certificate)]
    command = [str(program("storescu")), *identity, "+cf", str(ca), *further, "-aec", "OVERREAD", "127.0.0.1"]
    return subprocess.run([*command, str(port), str(path)], capture_output=True, text=True, timeout=60)


def test_instance_comes_in_over_tls(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node"))
    dataset = write_object(tmp_path / "object.dcm")
    done = secure_storescu(
        receiver.port, tmp_path / "object.dcm", authority.certificate, authority.issue("ct")
    )
    assert done.returncode == 0, done.stderr
    assert receiver.index.find_instance(str(dataset.SOPInstanceUID)) is not None


def test_peer_without_a_certificate_of_the_authority_is_not_let_in(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node"))
    write_object(tmp_path / "object.dcm")
    stranger = Authority(tmp_path / "other").issue("stranger")
    for client in (stranger, None):
        done = secure_storescu(receiver.port, tmp_path / "object.dcm", authority.certificate, client)
        assert done.returncode != 0
    in_clear = subprocess.run(
        [program("storescu"), "-aec", "OVERREAD", "127.0.0.1", str(receiver.port), tmp_path / "object.dcm"],
        capture_output=True,
        timeout=60,
    )
    assert in_clear.returncode != 0
    assert receiver.files() == []


def test_certificate_of_the_client_may_be_left_out_where_it_is_not_required(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node", require_client_certificate=False))
    write_object(tmp_path / "object.dcm")
    done = secure_storescu(receiver.port, tmp_path / "object.dcm", authority.certificate, None)
    assert done.returncode == 0, done.stderr


def test_stalled_handshake_blocks_nobody(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node"), acse_timeout_seconds=3.0)
    write_object(tmp_path / "object.dcm")
    silent = [socket.create_connection(("127.0.0.1", receiver.port)) for _ in range(20)]
    silent[0].sendall(b"\x16\x03\x01")
    client = authority.issue("ct")
    started = time.monotonic()
    done = secure_storescu(receiver.port, tmp_path / "object.dcm", authority.certificate, client)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 30, "one after the other they would take a minute"
    for connection in silent:
        connection.settimeout(30)
        while connection.recv(100):  # perhaps an alert, then the end
            continue
        connection.close()


def test_renewed_certificate_is_used_without_a_restart(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.upper_layer.tls.CHECK_SECONDS", 0.0)
    receiver = start_receiver(tls=tls_of(authority, "renewed", require_client_certificate=False))
    certificate, key = (authority.folder / f"renewed.{end}" for end in ("pem", "key"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(authority.certificate)

    def shown() -> str:
        with (
            socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"").strip()

    former = certificate.read_text().strip()
    assert shown() == former
    good_key = key.read_text()
    key.write_text("half a key")
    # The first connection may be accepted before the files are looked at.
    assert [shown() for _ in range(2)] == [former] * 2
    key.write_text(good_key)
    authority.issue("renewed")
    assert former != certificate.read_text().strip()
    wait_until(lambda: shown() == certificate.read_text().strip(), 10, "the new certificate is shown")


def test_versions_before_tls_1_2_are_refused(start_receiver: StartReceiver, authority: Authority) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node", require_client_certificate=False))

    def shake(version: ssl.TLSVersion) -> str | None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.load_verify_locations(authority.certificate)
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
        ):
            return secured.version()

    assert shake(ssl.TLSVersion.TLSv1_2) == "TLSv1.2"
    assert shake(ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.warns(DeprecationWarning), pytest.raises(OSError):
        shake(ssl.TLSVersion.TLSv1_1)


@pytest.fixture
def secure_storescp(authority: Authority, tmp_path: Path) -> Iterator[tuple[int, Path]]:
    folder, port, issued = tmp_path / "storescp", free_port(), authority.issue("pacs")
    folder.mkdir()
    process = subprocess.Popen(
        [program("storescp"), "+tls", issued.key, issued.certificate, "+cf", authority.certificate,
         "-od", folder, str(port)]
    )  # fmt: skip
    try:
        wait_until(lambda: answers(port), 10, "storescp listens")
        yield port, folder
    finally:
        process.kill()
        process.wait()


def to_pacs(port: int, tls: Tls, name: str | None = None) -> Destination:
    return Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, tls=tls, tls_name=name)


def sent(destination: Destination, path: Path) -> SendResult:
    dataset = write_object(path)
    (result,) = Sender(destination, "OVERREAD").send([file_to_send(path, dataset)])
    return result


def test_results_go_out_over_tls(
    secure_storescp: tuple[int, Path], authority: Authority, tmp_path: Path
) -> None:
    port, folder = secure_storescp
    assert sent(to_pacs(port, tls_of(authority, "node")), tmp_path / "object.dcm").delivered
    assert len(list(folder.iterdir())) == 1


def test_results_do_not_go_to_a_peer_that_another_authority_vouches_for(
    secure_storescp: tuple[int, Path], authority: Authority, tmp_path: Path
) -> None:
    port, folder = secure_storescp
    other = Authority(tmp_path / "other")
    result = sent(to_pacs(port, tls_of(authority, "node", ca=other.certificate)), tmp_path / "object.dcm")
    assert (result.delivered, result.transient) == (False, True)
    assert "the certificate is not accepted" in result.reason
    assert list(folder.iterdir()) == []


def test_certificate_of_the_peer_has_to_name_it(
    secure_storescp: tuple[int, Path], authority: Authority, tmp_path: Path
) -> None:
    port, folder = secure_storescp
    tls = tls_of(authority, "node")
    assert sent(to_pacs(port, tls, name="localhost"), tmp_path / "object.dcm").delivered
    refused = sent(to_pacs(port, tls, name="pacs.example"), tmp_path / "object.dcm")
    assert "Hostname mismatch" in refused.reason
    assert len(list(folder.iterdir())) == 1


def test_key_that_is_lost_while_the_node_runs_is_a_reason_to_try_again(
    authority: Authority, tmp_path: Path
) -> None:
    tls = tls_of(authority, "node", key=tmp_path / "lost.key")
    result = sent(to_pacs(free_port(), tls), tmp_path / "object.dcm")
    assert (result.delivered, result.transient) == (False, True)
    assert "lost.key" in result.reason


def test_mute_peer_is_given_up_in_the_handshake(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        answer = echo(to_pacs(listener.getsockname()[1], tls_of(authority, "node")), "OVERREAD", SHORT)
    assert not answer.ok
    assert "no TLS" in answer.reason


def test_receiver_answers_an_echo_over_tls(start_receiver: StartReceiver, authority: Authority) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node"))
    destination = replace(to_pacs(receiver.port, tls_of(authority, "peer")), ae_title="OVERREAD")
    assert echo(destination, "PEER").ok
    peer = authority.issue("ct")
    trusted = ("+tls", peer.key, peer.certificate, "+cf", authority.certificate)
    run("echoscu", *trusted, "-aec", "OVERREAD", "127.0.0.1", str(receiver.port))


def test_port_in_clear_stays_beside_the_one_with_tls(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node", port=0))
    first, second = (write_object(tmp_path / name) for name in ("clear.dcm", "secure.dcm"))
    storescu(receiver.port, tmp_path / "clear.dcm")
    done = secure_storescu(
        receiver.tls_port, tmp_path / "secure.dcm", authority.certificate, authority.issue("ct")
    )
    assert done.returncode == 0, done.stderr
    for dataset in (first, second):
        assert receiver.index.find_instance(str(dataset.SOPInstanceUID)) is not None


def test_peer_that_breaks_the_protocol_over_tls_gets_an_abort(
    start_receiver: StartReceiver, authority: Authority
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node", require_client_certificate=False))
    context = ssl.create_default_context(cafile=str(authority.certificate))
    with (
        socket.create_connection(("127.0.0.1", receiver.port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as secured,
    ):
        secured.sendall(b"GET / HTTP/1.1\r\n\r\n")
        assert secured.recv(10)[:1] == b"\x07"


def test_refused_certificate_is_a_security_alert(
    start_receiver: StartReceiver, authority: Authority, tmp_path: Path
) -> None:
    receiver = start_receiver(tls=tls_of(authority, "node"), audit=kept_in(tmp_path))
    write_object(tmp_path / "object.dcm")
    stranger = Authority(tmp_path / "other").issue("stranger")
    done = secure_storescu(receiver.port, tmp_path / "object.dcm", authority.certificate, stranger)
    assert done.returncode != 0
    wait_until(lambda: messages(tmp_path / "audit"), 10, "the alert is there")
    (alert,) = messages(tmp_path / "audit")
    assert codes(alert) == ["110113", "110126"]
