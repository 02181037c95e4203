"""Strangers, guesses and stalled handshakes against a whole node: none gets in, and the known modality is served."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from handlers.upper_layer.rejections import (
    CALLED_NOT_RECOGNIZED,
    CALLING_NOT_RECOGNIZED,
    LOCAL_LIMIT,
    Rejection,
)
from tests.peers.certificates import Authority
from tests.peers.raw import A_ASSOCIATE_RJ, associate_request, associated, read_pdu
from tests.peers.waiting import free_port
from tests.system.faults.witness import Witness

GUESSES = 6
SETTINGS = """
[access]
allow_unknown = false

[[source]]
name = "known"
ae_title = "MODALITY"
hosts = ["127.0.0.1"]

[[source]]
name = "limited"
ae_title = "LIMITED"
maximum_associations = 1

[tls]
certificate = "{certificate}"
key = "{key}"
ca = "{ca}"
port = {port}
"""


@pytest.fixture(scope="module")
def tls_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory, tls_port: int) -> Iterator[Witness]:
    """One node for all cases, with TLS on a port of its own."""
    folder = tmp_path_factory.mktemp("access")
    authority = Authority(folder / "authority")
    ours = authority.issue("node")
    settings = SETTINGS.format(
        certificate=ours.certificate, key=ours.key, ca=authority.certificate, port=tls_port
    )
    with Witness(
        folder / "site", with_pacs=False, measured=True, receivers=1, extra=settings
    ).watching() as witness:
        yield witness


@contextmanager
def connected(port: int, address: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), 15, source_address=(address, 0)) as connection:
        yield connection


def assert_rejected(connection: socket.socket, rejection: Rejection, **request: str) -> None:
    connection.sendall(associate_request(**request))
    kind, body = read_pdu(connection)
    assert kind == A_ASSOCIATE_RJ
    assert tuple(body[1:4]) == (rejection.result, rejection.source, rejection.reason)


@pytest.mark.parametrize(
    ("address", "request_", "rejection"),
    [
        ("127.0.0.2", {"calling": "STRANGER"}, CALLING_NOT_RECOGNIZED),
        ("127.0.0.3", {"calling": "MODALITY"}, CALLING_NOT_RECOGNIZED),
        ("127.0.0.5", {"calling": "MODALITY", "called": "GUESSED"}, CALLED_NOT_RECOGNIZED),
    ],
    ids=["title", "address", "called title"],
)
def test_stranger_is_rejected(
    witness: Witness, address: str, request_: dict[str, str], rejection: Rejection
) -> None:
    with connected(witness.node.port, address) as connection:
        assert_rejected(connection, rejection, **request_)
        witness.assert_serves()
    witness.assert_intact()
    audit = "".join(path.read_text() for path in (witness.node.data_dir / "audit").iterdir())
    assert address in audit


def test_guesses_at_once_hold_up_nobody(witness: Witness) -> None:
    guesses = [
        socket.create_connection(("127.0.0.1", witness.node.port), 15, source_address=("127.0.0.4", 0))
        for _ in range(GUESSES)
    ]
    for number, connection in enumerate(guesses):
        connection.sendall(associate_request(calling=f"GUESS{number}"))
    witness.assert_serves()
    for connection in guesses:
        assert read_pdu(connection)[0] in (A_ASSOCIATE_RJ, 0)
        connection.close()
    witness.assert_intact()


def test_source_at_its_limit_is_told_so(witness: Witness) -> None:
    with connected(witness.node.port) as first, connected(witness.node.port) as second:
        associated(first, calling="LIMITED")
        assert_rejected(second, LOCAL_LIMIT, calling="LIMITED")
        witness.assert_serves()
    witness.assert_intact()


def test_stalled_handshakes_hold_up_nobody(witness: Witness, tls_port: int) -> None:
    silent = [socket.create_connection(("127.0.0.1", tls_port), 15) for _ in range(20)]
    silent[0].sendall(b"\x16\x03\x01")
    witness.assert_serves()
    for connection in silent:
        while connection.recv(100):  # perhaps an alert, then the end
            continue
        connection.close()
    witness.assert_intact()
