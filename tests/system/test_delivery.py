"""A PACS that was away or refused gets the results later, by itself or by hand."""

from __future__ import annotations

from pathlib import Path

from pynetdicom.events import Event

from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.scripted import TITLE, instance_of, scripted_pacs
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph


def send_one(node: Node, folder: Path) -> None:
    path = folder / "study.dcm"
    write_radiograph(path, 1)
    send(node.port, path)


def test_pacs_that_is_away_gets_the_results_when_it_is_back(tmp_path: Path) -> None:
    pacs = Orthanc(tmp_path / "pacs")
    with Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)], receivers=1) as node:
        send_one(node, tmp_path)
        wait_until(
            lambda: any(d["attempts"] > 0 for j in node.jobs() for d in j["deliveries"]),
            90,
            "a delivery was tried",
        )
        (job,) = node.jobs()
        assert job["state"] == "succeeded"
        assert job["deliveries"][0]["state"] in ("pending", "sending")
        with pacs:
            (job,) = node.wait_for_jobs(1)
            assert job["deliveries"][0]["state"] == "sent"
            assert len(pacs.instances()) == len(job["results"])


def test_failed_delivery_is_sent_again_by_hand(tmp_path: Path) -> None:
    refused: set[str] = set()

    def refuse_once(event: Event) -> int:
        uid = instance_of(event)
        if uid in refused:
            return 0x0000
        refused.add(uid)
        return 0xC000

    with (
        scripted_pacs(refuse_once) as pacs,
        Node(tmp_path / "node", [("pacs", TITLE, pacs.port)], receivers=1) as node,
    ):
        send_one(node, tmp_path)
        (job,) = node.wait_for_jobs(1)
        assert job["deliveries"][0]["state"] == "failed"
        node.command("retry", str(job["id"]))
        wait_until(
            lambda: node.jobs()[0]["deliveries"][0]["state"] == "sent", 120, "the delivery was repeated"
        )
