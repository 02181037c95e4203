"""PACS of every kind of bad manners: their own deliveries wait or fail as they should, those of another one do not."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.events import Event

from tests.peers.raw import reset
from tests.peers.scripted import TITLE, in_turn, instance_of, scripted_pacs
from tests.peers.waiting import free_port, wait_until
from tests.system.faults.witness import Witness

DELIVERED_SECONDS = 30.0
"""From the C-STORE to the last result at the PACS in good order, with the inference between them."""
ANSWERED_SECONDS = 90.0
ABORTED = 3
"""So many objects have their first association aborted."""
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
STATUSES = {
    "warns": ((0xB000,), "sent", "B000"),
    "busy": ((0xA700, 0xA700, 0x0000), "sent", "0000"),
    "has-it": ((0x0111,), "sent", "0111"),
    "cannot-understand": ((0xC000,), "failed", "C000"),
    "does-not-match": ((0xA900,), "failed", "A900"),
    "not-supported": ((0x0122,), "failed", "0122"),
}
"""What a PACS answers in turn, what becomes of each delivery, and the status that is shown with it."""
WAITING = {"down", "mute", "resetting", "silent"}


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
                with suppress(OSError):
                    connection.recv(100)
                reset(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            waker.send(b"!")
            thread.join()


def abort_a_few(event: Event, aborted: set[str]) -> int:
    """Abort the association of the first few objects, once each."""
    uid = instance_of(event)
    if uid not in aborted and len(aborted) < ABORTED:
        aborted.add(uid)
        event.assoc.abort(block=False)
    return 0x0000


def states_of(jobs: list[dict[str, Any]]) -> dict[str, set[str]]:
    """By destination, the states of its deliveries."""
    states: dict[str, set[str]] = {}
    for job in jobs:
        for delivery in job["deliveries"]:
            states.setdefault(delivery["destination"], set()).add(delivery["state"])
    return states


def test_only_the_deliveries_of_a_faulty_pacs_wait_or_fail(tmp_path: Path) -> None:
    aborted: set[str] = set()
    over = threading.Event()
    success = in_turn(0x0000)

    def never_answer(_: Event) -> int:
        over.wait()
        return 0x0000

    pacs = {name: scripted_pacs(in_turn(*statuses)) for name, (statuses, _, _) in STATUSES.items()} | {
        "aborting": scripted_pacs(lambda event: abort_a_few(event, aborted)),
        "silent": scripted_pacs(never_answer),
        "implicit-only": scripted_pacs(success, transfer_syntaxes=[ImplicitVRLittleEndian]),
        "reports-only": scripted_pacs(success, sop_classes=[COMPREHENSIVE_3D_SR]),
        "knows-somebody-else": scripted_pacs(success, require_calling_aet=["SOMEBODY"]),
    }
    expected = {name: {state} for name, (_, state, _) in STATUSES.items()} | {
        "pacs": {"sent"},
        "aborting": {"sent"},
        "implicit-only": {"sent"},
        "reports-only": {"failed"},
        "knows-somebody-else": {"failed"},
    }
    with ExitStack() as stack:
        scripted = {name: stack.enter_context(running) for name, running in pacs.items()}
        stack.callback(over.set)
        faulty = [
            *((name, TITLE, running.port) for name, running in scripted.items()),
            ("down", "DOWN", free_port()),
            ("mute", "MUTE", stack.enter_context(mute())),
            ("resetting", "RESETTING", stack.enter_context(resetting())),
        ]
        witness = stack.enter_context(Witness(tmp_path / "site", faulty=faulty, receivers=1).watching())
        node = witness.node
        for _ in range(2):
            witness.send(witness.radiograph())
        witness.assert_serves()
        witness.wait_for_jobs(DELIVERED_SECONDS)

        def answered() -> bool:
            states = states_of(node.jobs())
            return {name: states[name] for name in expected} == expected

        wait_until(answered, ANSWERED_SECONDS, "each PACS has answered")
        jobs = node.jobs()
        for job in jobs:
            statuses = {d["destination"]: d["last_status"] for d in job["deliveries"]}
            assert {name: statuses[name] for name in STATUSES} == {
                name: status for name, (_, _, status) in STATUSES.items()
            }
        made = sorted(result["sop_instance_uid"] for job in jobs for result in job["results"])
        assert sorted(set(scripted["implicit-only"].received)) == made
        # Each object costs the one association that it was aborted on, and is sent again.
        assert len(aborted) == ABORTED
        assert sorted(scripted["aborting"].received) == sorted([*made, *aborted])
        assert sorted(scripted["reports-only"].received) == sorted(
            r["sop_instance_uid"] for job in jobs for r in job["results"] if r["kind"] == "sr"
        )
        assert scripted["knows-somebody-else"].received == []
        assert "not recognized" in node.command("show", str(jobs[0]["id"]))
        wait_until(lambda: tried(node.jobs()) >= WAITING, 30, "the others were tried")
        states = states_of(node.jobs())
        assert all(states[name] <= {"pending", "sending"} for name in WAITING)
        assert node.pids("courier")
        witness.assert_serves()
        witness.assert_intact()
    assert "process_died" not in node.log


def tried(jobs: list[dict[str, Any]]) -> set[str]:
    """The destinations that something was sent to, taken or not."""
    return {d["destination"] for job in jobs for d in job["deliveries"] if d["attempts"] > 0}
