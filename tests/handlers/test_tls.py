"""TLS with DCMTK's tools: both directions, strangers, stalled handshakes, old protocol versions."""

from __future__ import annotations

import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from handlers.sender import FileToSend, Sender, Timeouts
from handlers.settings import Destination, Tls
from tests.handlers.conftest import StartReceiver, write_object
from tests.peers.certificates import Authority, Certificate
from tests.peers.programs import program
from tests.peers.waiting import answers, free_port, wait_until


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def tls_of(authority: Authority, name: str, **changes: object) -> Tls:
    issued = authority.issue(name)
    return Tls(
        **{
            "certificate": issued.certificate,
            "key": issued.key,
            "ca": authority.certificate,
            **changes,
        }  # type: ignore[arg-type]
    )


def secure_storescu(
    port: int, path: Path, ca: Path, client: Certificate | None, *further: str
) -> subprocess.CompletedProcess[str]:
    identity = ["+tla"] if client is None else ["+tls", str(client.key), str(client.certificate)]
    command = [program("storescu"), *identity, "+cf", str(ca), *further, "-aec", "OVERREAD", "127.0.0.1"]
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
    started = time.monotonic()
    done = secure_storescu(
        receiver.port, tmp_path / "object.dcm", authority.certificate, authority.issue("ct")
    )
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 10
    for connection in silent:
        connection.settimeout(10)
        while connection.recv(100):  # perhaps an alert, then the end
            continue
        connection.close()


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


def sent(port: int, tls: Tls | None, path: Path) -> bool:
    dataset = write_object(path)
    destination = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=port, tls=tls)
    timeouts = Timeouts(connection=5, acse=5, dimse=5, network=5)
    (result,) = Sender(destination, "OVERREAD", timeouts).send(
        [
            FileToSend(
                path=path,
                sop_class_uid=str(dataset.SOPClassUID),
                sop_instance_uid=str(dataset.SOPInstanceUID),
                transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
            )
        ]
    )
    return result.delivered


def test_results_go_out_over_tls(
    secure_storescp: tuple[int, Path], authority: Authority, tmp_path: Path
) -> None:
    port, folder = secure_storescp
    assert sent(port, tls_of(authority, "node"), tmp_path / "object.dcm")
    assert len(list(folder.iterdir())) == 1


def test_results_do_not_go_to_a_peer_that_another_authority_vouches_for(
    secure_storescp: tuple[int, Path], authority: Authority, tmp_path: Path
) -> None:
    port, folder = secure_storescp
    other = Authority(tmp_path / "other")
    assert not sent(port, tls_of(authority, "node", ca=other.certificate), tmp_path / "object.dcm")
    assert list(folder.iterdir()) == []
