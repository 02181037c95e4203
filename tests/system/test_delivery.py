"""A PACS that was away, refused, or was cut off gets the results later, by itself or by hand, and delays no other."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pynetdicom.events import Event

from tests.peers.dcmtk import Storescp, send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.scripted import TITLE, ScriptedPacs, instance_of, scripted_pacs
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


STUDIES = 4


@contextmanager
def holding(taken: threading.Event, going_on: threading.Event) -> Iterator[ScriptedPacs]:
    """A PACS that sets ``taken`` when an object comes, and answers none before ``going_on`` is set."""

    def answer(_: Event) -> int:
        taken.set()
        going_on.wait(120)
        return 0x0000

    with scripted_pacs(answer) as pacs:
        try:
            yield pacs
        finally:
            going_on.set()


def send_studies(node: Node, folder: Path) -> None:
    for number in range(STUDIES):
        write_radiograph(folder / f"{number}.dcm", number)
    send(node.port, *(folder / f"{number}.dcm" for number in range(STUDIES)))


def deliveries_of(node: Node, name: str) -> list[tuple[str, int]]:
    """State and attempts of each job's deliveries to a destination."""
    found = [d for job in node.jobs() for d in job["deliveries"] if d["destination"] == name]
    return [(d["state"], d["attempts"]) for d in found]


def wait_for_first_try(node: Node, name: str) -> None:
    wait_until(
        lambda: deliveries_of(node, name) == [("sent", 1)] * STUDIES, 120, f"{name} has all at the first try"
    )


def test_slow_pacs_delays_no_other_one_not_even_one_that_serves_one_association(tmp_path: Path) -> None:
    taken, going_on = threading.Event(), threading.Event()
    with (
        Orthanc(tmp_path / "pacs") as pacs,
        Storescp(tmp_path / "dcmtk", "DCMTK") as dcmtk,
        holding(taken, going_on) as slow,
        Node(
            tmp_path / "node",
            [
                ("slow", TITLE, slow.port),
                ("pacs", "ORTHANC", pacs.port),
                ("serial", "DCMTK", dcmtk.port),
            ],
            receivers=1,
        ) as node,
    ):
        send_studies(node, tmp_path)
        for name in ("pacs", "serial"):
            wait_for_first_try(node, name)
        assert taken.is_set()
        assert ("sent", 1) not in deliveries_of(node, "slow")
        made = sum(len(job["results"]) for job in node.jobs())
        assert len(pacs.instances()) == len(dcmtk.files()) == made
        going_on.set()
        wait_for_first_try(node, "slow")
        assert len(slow.received) == made


def test_courier_that_is_killed_while_it_sends_loses_nothing(tmp_path: Path) -> None:
    taken, going_on = threading.Event(), threading.Event()
    with (
        holding(taken, going_on) as pacs,
        Node(tmp_path / "node", [("pacs", TITLE, pacs.port)], receivers=1) as node,
    ):
        send_studies(node, tmp_path)
        assert taken.wait(60)
        (courier,) = node.pids("courier")
        os.kill(courier, signal.SIGKILL)
        going_on.set()
        wait_until(
            lambda: (
                {state for state, _ in deliveries_of(node, "pacs")} == {"sent"}
                and len(deliveries_of(node, "pacs")) == STUDIES
            ),
            120,
            "everything is sent",
        )
        made = {result["sop_instance_uid"] for job in node.jobs() for result in job["results"]}
        assert set(pacs.received) == made
