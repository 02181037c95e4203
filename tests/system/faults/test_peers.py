"""Hostile peers against a whole node: a modality in good order is served all the while, and nothing stays behind."""

from __future__ import annotations

import select
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

import pytest

from handlers.dimse.commands import C_ECHO_RQ, Command, encode_command
from handlers.upper_layer import pdu
from tests.peers.raw import (
    A_ABORT,
    AFTER_ASSOCIATION,
    BROKEN,
    CT,
    associate_request,
    associated,
    read_pdu,
    reset,
    store_command,
)
from tests.peers.waiting import wait_until
from tests.system.faults.witness import Witness

VERIFICATION = "1.2.840.10008.1.1"
PROBES = 300
ASSOCIATIONS = 200
PIPELINED = 5000
ENDED_SECONDS = 45.0
"""Half a PDU has 30 s (10 s before there is an association), and the node looks once a second."""

Hostile = Callable[[int], AbstractContextManager[object]]


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """One node for all cases."""
    with Witness(tmp_path_factory.mktemp("peers"), measured=True).watching() as witness:
        yield witness
        assert witness.node.stop() == 0
        assert list(witness.elsewhere.rglob("*")) == []


def connected(stack: ExitStack, port: int) -> socket.socket:
    """A connection that ends with the stack."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", port), 10))
    connection.settimeout(10)
    return connection


@contextmanager
def half_pdus(port: int) -> Iterator[list[socket.socket]]:
    """Many connections that send half a PDU and then nothing, before and after they associate."""
    with ExitStack() as stack:
        silent = []
        for _ in range(20):
            silent.append(connected(stack, port))
            silent[-1].sendall(associate_request()[:60])
            silent.append(connected(stack, port))
            associated(silent[-1])
            silent[-1].sendall(AFTER_ASSOCIATION["half a data PDU"])
        yield silent


@contextmanager
def one_byte_a_second(port: int) -> Iterator[list[socket.socket]]:
    """Connections that send so slowly that none would ever be done."""
    with ExitStack() as stack:
        request = associate_request()
        slow = [connected(stack, port) for _ in range(10)]
        for connection in slow[5:]:
            associated(connection)
            connection.sendall(struct.pack(">BxI", 4, 4000))
        over = threading.Event()

        def drip() -> None:
            for position in range(len(request)):
                for connection in slow:
                    try:
                        connection.send(request[position : position + 1])
                    except OSError:
                        continue
                if over.wait(1.0):
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            yield slow
        finally:
            over.set()
            dripping.join()


@contextmanager
def broken_pdus(port: int) -> Iterator[None]:
    """Oversize lengths, data above the negotiated maximum, unknown contexts and commands, and their like."""
    with ExitStack() as stack:
        for data in BROKEN.values():
            connected(stack, port).sendall(data)
        for data in AFTER_ASSOCIATION.values():
            connection = connected(stack, port)
            associated(connection)
            connection.sendall(data)
        yield


@contextmanager
def probes(port: int) -> Iterator[None]:
    """Connections that are closed at once, by turns in order and with a reset."""
    for number in range(PROBES):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        if number % 2:
            reset(connection)
        else:
            connection.close()
    yield


@contextmanager
def idle_associations(port: int) -> Iterator[None]:
    """As many associations as the receivers have places for, and more; those that have one do nothing."""
    with ExitStack() as stack:
        for _ in range(ASSOCIATIONS + ASSOCIATIONS // 2):
            connection = connected(stack, port)
            connection.sendall(associate_request())
            read_pdu(connection)
        yield


@contextmanager
def associations_at_once(port: int) -> Iterator[None]:
    """Requests of all before the first one reads its answer."""
    with ExitStack() as stack:
        connections = [connected(stack, port) for _ in range(ASSOCIATIONS)]
        for connection in connections:
            connection.sendall(associate_request())
        yield
        kinds = [read_pdu(connection)[0] for connection in connections]
        assert len(kinds) == ASSOCIATIONS


@contextmanager
def aborts_in_a_dataset(port: int) -> Iterator[None]:
    """A-ABORT or a reset when the first fragment of a dataset is there and half of the second one."""
    fragment = bytes(pdu.encode_data(1, bytes(1000), command=False, last=False))
    for number in range(60):
        connection = socket.create_connection(("127.0.0.1", port), 10)
        associated(connection)
        connection.sendall(store_command() + fragment)
        if number % 2:
            connection.sendall(fragment[:500])
            reset(connection)
        else:
            connection.sendall(struct.pack(">BxI4x", A_ABORT, 4))
            connection.close()
    yield


@contextmanager
def pipelined(port: int, abstract_syntax: str, request: bytes) -> Iterator[None]:
    """Requests one after another, as many as the node takes; no answer is ever read."""
    with ExitStack() as stack:
        connections = []
        for _ in range(4):
            connection = stack.enter_context(socket.socket())
            # Little room, so that the answers soon have nowhere to go.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.settimeout(10)
            connection.connect(("127.0.0.1", port))
            associated(connection, abstract=abstract_syntax)
            connection.setblocking(False)
            connections.append(connection)
        waiting = {connection: memoryview(request * PIPELINED) for connection in connections}
        # All is sent, or the node has taken nothing more for a second.
        while waiting and (ready := select.select([], list(waiting), [], 1.0)[1]):
            for connection in ready:
                waiting[connection] = waiting[connection][connection.send(waiting[connection]) :]
                if not waiting[connection]:
                    del waiting[connection]
        yield


def echoes(port: int) -> AbstractContextManager[None]:
    """Thousands of C-ECHO."""
    command = Command(command_field=C_ECHO_RQ, message_id=1, affected_sop_class_uid=VERIFICATION)
    request = bytes(pdu.encode_data(1, encode_command(command), command=True, last=True))
    return pipelined(port, VERIFICATION, request)


def stores(port: int) -> AbstractContextManager[None]:
    """Thousands of C-STORE, each of a dataset without the UIDs that it needs."""
    dataset = b"\x08\x00\x60\x00CS\x02\x00CT"
    return pipelined(port, CT, store_command() + bytes(pdu.encode_data(1, dataset, command=False, last=True)))


HOSTILE: dict[str, Hostile] = {
    "half PDUs": half_pdus,
    "one byte a second": one_byte_a_second,
    "broken PDUs": broken_pdus,
    "probes": probes,
    "idle associations": idle_associations,
    "associations at once": associations_at_once,
    "aborts in a dataset": aborts_in_a_dataset,
    "pipelined C-ECHO": echoes,
    "pipelined C-STORE": stores,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_modality_is_served_beside(witness: Witness, name: str) -> None:
    with HOSTILE[name](witness.node.port):
        witness.assert_serves()
    witness.assert_intact()


def test_node_ends_slow_peers_by_itself(witness: Witness) -> None:
    with half_pdus(witness.node.port) as silent, one_byte_a_second(witness.node.port) as slow:
        witness.assert_serves()
        waiting = select.poll()
        for connection in (*silent, *slow):
            waiting.register(connection, select.POLLRDHUP)
        count = len(silent) + len(slow)
        wait_until(lambda: len(waiting.poll(0)) == count, ENDED_SECONDS, "the node has ended all of them")
        witness.assert_intact()
