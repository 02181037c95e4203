"""Deliveries to PACS that are away, refuse, warn, or take only a part."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

from tests.peers.dcmtk import storescu
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.waiting import free_port, wait_until
from tests.system.conftest import write_radiograph

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


@contextmanager
def scripted_pacs(
    statuses: list[int], *, port: int | None = None, sop_classes: list[str] | None = None, **entity: object
) -> Iterator[tuple[int, list[str]]]:
    """A PACS that answers with the given statuses in turn, the last one for ever; its port and what came."""
    received: list[str] = []
    lock = threading.Lock()

    def store(event: Event) -> int:
        with lock:
            received.append(str(event.request.AffectedSOPInstanceUID))
            return statuses.pop(0) if len(statuses) > 1 else statuses[0]

    pacs = AE(ae_title="SCRIPTED")
    for keyword, value in entity.items():
        setattr(pacs, keyword, value)
    for context in AllStoragePresentationContexts:
        if sop_classes is None or str(context.abstract_syntax) in sop_classes:
            pacs.add_supported_context(str(context.abstract_syntax))
    for sop_class in sop_classes or [COMPREHENSIVE_3D_SR]:
        pacs.add_supported_context(sop_class)
    server = pacs.start_server(("127.0.0.1", port or 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        yield server.server_address[1], received
    finally:
        server.shutdown()


def send_one(node: Node, folder: Path) -> None:
    path = folder / "study.dcm"
    write_radiograph(path, 1)
    storescu(node.port, path)


def test_pacs_that_is_away_gets_the_results_when_it_is_back(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    with Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)], receivers=1) as node:
        send_one(node, tmp_path)
        wait_until(
            lambda: any(d["attempts"] > 0 for j in node.jobs() for d in j["deliveries"]),
            30,
            "a delivery was tried",
        )
        (job,) = node.jobs()
        assert job["state"] == "succeeded"
        assert job["deliveries"][0]["state"] in ("pending", "sending")
        with pacs:
            (job,) = node.wait_for_jobs(1)
            assert job["deliveries"][0]["state"] == "sent"
            assert len(pacs.instances()) == len(job["results"])


CASES: dict[str, tuple[list[int], str, str]] = {
    "warns": ([0xB000], "sent", "B000"),
    "busy": ([0xA700, 0xA700, 0x0000], "sent", "0000"),
    "cannot-understand": ([0xC000], "failed", "C000"),
    "does-not-match": ([0xA900], "failed", "A900"),
    "not-supported": ([0x0122], "failed", "0122"),
    "has-it": ([0x0111], "sent", "0111"),
}
"""What a PACS answers, and what then becomes of the delivery."""


def test_status_decides(tmp_path: Path) -> None:
    with ExitStack() as stack:
        ports = {name: stack.enter_context(scripted_pacs(list(CASES[name][0])))[0] for name in CASES}
        destinations = [(name, "SCRIPTED", port) for name, port in ports.items()]
        node = stack.enter_context(Node(tmp_path / "node", destinations, receivers=1))
        send_one(node, tmp_path)
        (job,) = node.wait_for_jobs(1)
        assert job["state"] == "succeeded"
        assert {d["destination"]: (d["state"], d["last_status"]) for d in job["deliveries"]} == {
            name: (state, status) for name, (_, state, status) in CASES.items()
        }


def test_failed_delivery_is_sent_again_by_hand(tmp_path: Path) -> None:
    statuses = [0xC000]
    with (
        scripted_pacs(statuses) as (port, _),
        Node(tmp_path / "node", [("pacs", "SCRIPTED", port)], receivers=1) as node,
    ):
        send_one(node, tmp_path)
        (job,) = node.wait_for_jobs(1)
        assert job["deliveries"][0]["state"] == "failed"
        statuses[0] = 0
        node.command("retry", str(job["id"]))
        wait_until(
            lambda: node.jobs()[0]["deliveries"][0]["state"] == "sent", 20, "the delivery was repeated"
        )


def test_destination_without_secondary_capture_gets_the_report(tmp_path: Path) -> None:
    with (
        scripted_pacs([0x0000], sop_classes=[COMPREHENSIVE_3D_SR]) as (port, received),
        Node(tmp_path / "node", [("pacs", "SCRIPTED", port)], receivers=1) as node,
    ):
        send_one(node, tmp_path)
        (job,) = node.wait_for_jobs(1)
        assert received == [r["sop_instance_uid"] for r in job["results"] if r["kind"] == "sr"]
        assert job["deliveries"][0]["state"] == "failed"


def test_calling_title_that_is_not_recognized_is_a_dead_letter(tmp_path: Path) -> None:
    with (
        scripted_pacs([0x0000], require_calling_aet=["SOMEBODY"]) as (port, received),
        Node(tmp_path / "node", [("pacs", "SCRIPTED", port)], receivers=1) as node,
    ):
        send_one(node, tmp_path)
        (job,) = node.wait_for_jobs(1)
        assert job["deliveries"][0]["state"] == "failed"
        assert received == []
        assert "not recognized" in node.command("show", str(job["id"]))


def test_stuck_destination_does_not_hold_up_another(tmp_path: Path) -> None:
    with (
        scripted_pacs([0x0000]) as (port, _),
        Node(
            tmp_path / "node", [("away", "AWAY", free_port()), ("pacs", "SCRIPTED", port)], receivers=1
        ) as node,
    ):
        send_one(node, tmp_path)

        def sent() -> bool:
            states = {d["destination"]: d["state"] for j in node.jobs() for d in j["deliveries"]}
            return states.get("pacs") == "sent" and states["away"] in ("pending", "sending")

        wait_until(sent, 30, "the other destination has its results")
