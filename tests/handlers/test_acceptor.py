"""The acceptor against peers that break PS3.8: each is ended in time, and the next one is served."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID
from handlers.settings import Source
from handlers.spool.files import is_whole
from handlers.upper_layer import pdu
from tests.handlers.conftest import Receiver, StartReceiver, write_object
from tests.peers.dcmtk import run, storescu
from tests.peers.raw import (
    A_ABORT,
    A_ASSOCIATE_AC,
    A_ASSOCIATE_RJ,
    AFTER_ASSOCIATION,
    BROKEN,
    CT,
    P_DATA,
    associate_request,
    associated,
    read_pdu,
    store_command,
)
from tests.peers.waiting import wait_until

IMPATIENT = {"acse_timeout_seconds": 2.0, "network_timeout_seconds": 2.0, "idle_timeout_seconds": 2.0}


@contextmanager
def connected(receiver: Receiver) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", receiver.port), 30) as connection:
        connection.settimeout(30)
        yield connection


def assert_ended(connection: socket.socket) -> None:
    """The peer aborts or closes, within the socket's timeout."""
    kind, _ = read_pdu(connection)
    assert kind in (0, A_ABORT)


def assert_serves(receiver: Receiver, folder: Path) -> None:
    """Another sender is served, and nothing is left of the broken one."""
    path = folder / f"legitimate-{os.urandom(4).hex()}.dcm"
    dataset = write_object(path)
    storescu(receiver.port, path)
    stored = receiver.index.find_instance(str(dataset.SOPInstanceUID))
    assert stored is not None
    wait_until(lambda: all(is_whole(path) for path in receiver.files()), 30, "no partial file")
    wait_until(
        lambda: not [t for t in threading.enumerate() if t.name == "association"],
        30,
        "no association is left",
    )


@pytest.mark.parametrize("name", BROKEN)
def test_peer_that_does_not_associate_is_ended(
    start_receiver: StartReceiver, tmp_path: Path, name: str
) -> None:
    receiver = start_receiver(**IMPATIENT)
    with connected(receiver) as connection:
        connection.sendall(BROKEN[name])
        assert_ended(connection)
    assert_serves(receiver, tmp_path)


@pytest.mark.parametrize("name", AFTER_ASSOCIATION)
def test_associated_peer_that_breaks_the_protocol_is_ended(
    start_receiver: StartReceiver, tmp_path: Path, name: str
) -> None:
    receiver = start_receiver(**IMPATIENT)
    with connected(receiver) as connection:
        associated(connection)
        connection.sendall(AFTER_ASSOCIATION[name])
        assert_ended(connection)
    assert_serves(receiver, tmp_path)


def test_peer_that_resets_in_the_middle_leaves_nothing(receiver: Receiver, tmp_path: Path) -> None:
    for _ in range(5):
        with connected(receiver) as connection:
            associated(connection)
            connection.sendall(store_command() + struct.pack(">BxI", 4, 1000) + bytes(500))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert_serves(receiver, tmp_path)


def test_one_byte_after_another_is_ended_while_others_are_served(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    receiver = start_receiver(**IMPATIENT)
    with connected(receiver) as slow:
        slow.sendall(associate_request()[:1])
        assert_serves_beside(receiver, tmp_path)
        assert_ended(slow)
    assert_serves(receiver, tmp_path)


def assert_serves_beside(receiver: Receiver, folder: Path) -> None:
    path = folder / "beside.dcm"
    dataset = write_object(path)
    storescu(receiver.port, path)
    assert receiver.index.find_instance(str(dataset.SOPInstanceUID)) is not None


def test_many_silent_connections_do_not_lock_senders_out(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    receiver = start_receiver(maximum_associations=20)
    silent = [socket.create_connection(("127.0.0.1", receiver.port), 5) for _ in range(40)]
    try:
        assert_serves_beside(receiver, tmp_path)
    finally:
        for connection in silent:
            connection.close()
    assert_serves(receiver, tmp_path)


def test_senders_are_served_while_silent_connections_fill_every_place(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    receiver = start_receiver(maximum_associations=5, acse_timeout_seconds=60.0)
    silent = [socket.create_connection(("127.0.0.1", receiver.port), 5) for _ in range(40)]
    try:
        assert_serves_beside(receiver, tmp_path)
        assert len([t for t in threading.enumerate() if t.name == "association"]) <= 30
    finally:
        for connection in silent:
            connection.close()
    assert_serves(receiver, tmp_path)


def test_more_associations_than_allowed_are_rejected_as_a_passing_limit(
    start_receiver: StartReceiver,
) -> None:
    receiver = start_receiver(maximum_associations=2)
    with connected(receiver) as first, connected(receiver) as second, connected(receiver) as third:
        associated(first)
        associated(second)
        third.sendall(associate_request())
        kind, body = read_pdu(third)
        assert kind == A_ASSOCIATE_RJ
        assert body[1:4] == bytes((2, 3, 2))


def test_association_that_idles_longest_gives_its_place_up(
    start_receiver: StartReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.acceptor.capacity.GRACE_SECONDS", 60.0)
    receiver = start_receiver(maximum_associations=2)

    def idle(number: int) -> bool:
        return len(receiver.server.capacity._idle_since) == number

    with connected(receiver) as first, connected(receiver) as second:
        for number, connection in enumerate((first, second), start=1):
            associated(connection)
            wait_until(partial(idle, number), 30, "it idles")

        def let_in() -> bool:
            with connected(receiver) as third:
                third.sendall(associate_request())
                return read_pdu(third)[0] == A_ASSOCIATE_AC

        assert not let_in()
        monkeypatch.setattr("handlers.acceptor.capacity.GRACE_SECONDS", 0.0)
        wait_until(let_in, 30, "a place is free")
        assert_ended(first)
        second.sendall(store_command())  # still there
        second.settimeout(0.1)
        with pytest.raises(TimeoutError):
            second.recv(1)


@pytest.mark.parametrize(
    ("settings", "request_fields", "reason"),
    [
        ({}, {"called": "OTHER"}, 7),
        ({"allow_unknown": False}, {}, 3),
        (
            {"allow_unknown": False, "sources": (Source(name="a", ae_title="TEST", hosts=("10.0.0.0/8",)),)},
            {},
            3,
        ),
    ],
)
def test_stranger_is_rejected_with_the_right_reason(
    start_receiver: StartReceiver, settings: dict[str, object], request_fields: dict[str, str], reason: int
) -> None:
    receiver = start_receiver(**settings)
    with connected(receiver) as connection:
        connection.sendall(associate_request(**request_fields))
        kind, body = read_pdu(connection)
        assert (kind, tuple(body[1:4])) == (A_ASSOCIATE_RJ, (1, 1, reason))


def test_configured_source_is_let_in(start_receiver: StartReceiver) -> None:
    receiver = start_receiver(
        allow_unknown=False, sources=(Source(name="a", ae_title="TEST", hosts=("127.0.0.0/8",)),)
    )
    with connected(receiver) as connection:
        associated(connection)


def test_contexts_that_are_not_supported_are_refused_one_by_one(receiver: Receiver) -> None:
    with connected(receiver) as connection:
        connection.sendall(associate_request(abstract="1.2.840.10008.5.1.4.31"))
        kind, body = read_pdu(connection)
        assert kind == A_ASSOCIATE_AC
        position = body.index(b"\x21\x00")
        assert body[position + 6] == 3
        assert IMPLEMENTATION_CLASS_UID.encode() in body
    with connected(receiver) as connection:
        connection.sendall(associate_request(syntax="1.2.3.4.5"))
        _, body = read_pdu(connection)
        assert body[body.index(b"\x21\x00") + 6] == 4


def test_echo_is_answered(receiver: Receiver) -> None:
    run("echoscu", "-aec", "OVERREAD", "127.0.0.1", str(receiver.port))
    with pytest.raises(subprocess.CalledProcessError):
        run("echoscu", "-aec", "SOMEBODY", "127.0.0.1", str(receiver.port))


def open_sockets() -> int:
    links = []
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            links.append(os.readlink(descriptor))
        except FileNotFoundError:
            continue
    return sum(link.startswith("socket:") for link in links)


def test_sockets_return_to_where_they_were(receiver: Receiver, tmp_path: Path) -> None:
    assert_serves(receiver, tmp_path)
    before = open_sockets()
    for data in (*BROKEN.values(), associate_request() + AFTER_ASSOCIATION["half a data PDU"]):
        with connected(receiver) as connection:
            connection.sendall(data)
    assert_serves(receiver, tmp_path)
    wait_until(lambda: open_sockets() <= before, 30, "every socket is closed")


def test_requests_that_do_not_wait_are_read_one_at_a_time(receiver: Receiver) -> None:
    """Requests behind each other get their answers in turn; the next is read when the last one is stored."""
    dataset = b"".join(
        struct.pack("<HH2sH", *tag, b"UI", len(value)) + value
        for tag, value in (
            ((0x0008, 0x0016), CT.encode() + b"\0" * (len(CT) % 2)),
            ((0x0008, 0x0018), b"1.2.3.4\0"),
            ((0x0020, 0x000D), b"1.2.3.5\0"),
            ((0x0020, 0x000E), b"1.2.3.6\0"),
        )
    )
    request = store_command() + bytes(pdu.encode_data(1, dataset, command=False, last=True))
    with connected(receiver) as connection:
        associated(connection)
        connection.sendall(request * 40)
        for _ in range(40):
            kind, body = read_pdu(connection)
            assert kind == P_DATA
            assert struct.pack("<HHLH", 0x0000, 0x0900, 2, 0x0000) in body
    assert len(receiver.files()) == 1
