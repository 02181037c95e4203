"""PACS that are mute, break off or never answer: their own deliveries wait, those of another one do not."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE

from tests.peers.dcmtk import storescu
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.raw import reset
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph

DELIVERED_SECONDS = 20.0
SERVED_SECONDS = 10.0
"""From the C-STORE to the last result at the PACS in good order, with the inference between them."""


@contextmanager
def mute() -> Iterator[int]:
    """A PACS that takes connections and says nothing; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


@contextmanager
def resetting() -> Iterator[int]:
    """A PACS that resets each connection when the first bytes are there; its port."""
    over, waker = socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener, over, waker:

        def serve() -> None:
            while over not in select.select([listener, over], [], [])[0]:
                connection, _ = listener.accept()
                connection.settimeout(5)
                connection.recv(100)
                reset(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            waker.send(b"!")
            thread.join()


@contextmanager
def storing(handler: evt.EventHandlerType) -> Iterator[int]:
    """A PACS with a handler of its own for C-STORE; its port."""
    entity = AE(ae_title="SCRIPTED")
    for context in AllStoragePresentationContexts:
        entity.add_supported_context(str(context.abstract_syntax))
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[handler])
    assert server is not None
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()


@pytest.mark.slow
def test_only_the_deliveries_of_a_faulty_pacs_wait(tmp_path: Path) -> None:
    aborted: list[str] = []
    kept: list[str] = []
    answer = threading.Event()

    def abort_once(event: evt.Event) -> int:
        request = event.request
        assert isinstance(request, C_STORE)
        uid = str(request.AffectedSOPInstanceUID)
        if uid not in aborted:
            aborted.append(uid)
            event.assoc.abort(block=False)
        else:
            kept.append(uid)
        return 0x0000

    def never_answer(event: evt.Event) -> int:
        answer.wait()
        return 0x0000

    with (
        Orthanc(tmp_path / "pacs") as good,
        mute() as mute_port,
        resetting() as resetting_port,
        storing((evt.EVT_C_STORE, abort_once)) as aborting_port,
        storing((evt.EVT_C_STORE, never_answer)) as silent_port,
        Node(
            tmp_path / "node",
            [
                ("mute", "MUTE", mute_port),
                ("resetting", "RESETTING", resetting_port),
                ("aborting", "SCRIPTED", aborting_port),
                ("silent", "SCRIPTED", silent_port),
                ("good", "ORTHANC", good.port),
            ],
            receivers=1,
        ) as node,
    ):
        try:
            write_radiograph(tmp_path / "study.dcm", 1)
            storescu(node.port, tmp_path / "study.dcm")

            def states() -> dict[str, str]:
                return {d["destination"]: d["state"] for job in node.jobs() for d in job["deliveries"]}

            wait_until(lambda: states().get("good") == "sent", DELIVERED_SECONDS, "the good PACS has all")
            (job,) = node.jobs()
            made = {result["sop_instance_uid"] for result in job["results"]}
            assert set(good.uids().values()) == made
            # Each object costs the one association that it was aborted on, and is sent again.
            wait_until(lambda: states()["aborting"] == "sent", 60, "the aborting PACS has all")
            assert sorted(kept) == sorted(made)
            wait_until(
                lambda: all(
                    d["attempts"] > 0
                    for job in node.jobs()
                    for d in job["deliveries"]
                    if d["state"] != "sent"
                ),
                30,
                "the others were tried",
            )
            left = {name: state for name, state in states().items() if state != "sent"}
            assert left.keys() == {"mute", "resetting", "silent"}
            assert set(left.values()) <= {"pending", "sending"}
            assert node.pids("courier")
            write_radiograph(tmp_path / "next.dcm", 2)
            started = time.monotonic()
            storescu(node.port, tmp_path / "next.dcm")
            assert time.monotonic() - started <= SERVED_SECONDS
            assert "Canary" not in node.log
        finally:
            answer.set()
    assert "process_died" not in node.log
