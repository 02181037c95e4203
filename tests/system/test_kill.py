"""Processes die by SIGKILL in the middle of the work: nothing acknowledged is lost, nothing is done twice."""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from pathlib import Path

import pydicom
import pytest

from handlers.spool.files import is_whole
from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.peers.spool import filled
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph
from tests.system.faults.witness import dataset_bytes

STUDIES = 50
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


def kill_one(node: Node, role: str) -> None:
    """SIGKILL to one process of a role, then wait until the supervisor has started another."""
    pids = wait_until(lambda: node.pids(role), 10, f"a {role} runs")
    os.kill(pids[0], signal.SIGKILL)
    wait_until(
        lambda: len(node.pids(role)) == len(pids) and pids[0] not in node.pids(role), 20, f"a new {role} runs"
    )


@pytest.mark.slow
def test_every_acknowledged_instance_is_there_and_has_one_set_of_results(tmp_path: Path) -> None:
    chance = random.Random(20261121)
    victims = {chance.randrange(5, STUDIES - 5): role for role in ("worker", "courier", "receiver")}
    sent: dict[str, Path] = {}
    with (
        Orthanc(tmp_path / "pacs") as pacs,
        Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)]) as node,
    ):
        for number in range(STUDIES):
            path = tmp_path / f"{number}.dcm"
            dataset = write_radiograph(path, number)
            if number in victims:
                kill_one(node, victims[number])
            send(node.port, path)
            sent[str(dataset.SOPInstanceUID)] = path
        jobs = node.wait_for_jobs(STUDIES, 180)
        assert Counter(job["state"] for job in jobs) == {"succeeded": STUDIES}
        kept = {
            str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID): path
            for path in filled(node.data_dir / "spool")
            if is_whole(path)
        }
        assert kept.keys() == sent.keys()
        for uid, path in kept.items():
            assert dataset_bytes(path) == dataset_bytes(sent[uid])
        results = Counter(
            (str(dataset.StudyInstanceUID), dataset.SOPClassUID == COMPREHENSIVE_3D_SR)
            for _, dataset in pacs.objects(tmp_path / "objects")
        )
        studies = {str(pydicom.dcmread(path).StudyInstanceUID) for path in sent.values()}
        assert {study: results[study, True] for study in studies} == dict.fromkeys(studies, 1)
        made = Counter(job["study_instance_uid"] for job in jobs for _ in job["results"])
        assert made == Counter({study: results[study, True] + results[study, False] for study in studies})
        assert node.stop() == 0
        assert "Canary" not in node.log
        assert "CANARY" not in node.log


def test_whole_node_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    with Orthanc(tmp_path / "pacs") as pacs:
        node = Node(tmp_path / "node", [("pacs", "ORTHANC", pacs.port)])
        node.start()
        for number in range(4):
            write_radiograph(tmp_path / f"{number}.dcm", number)
            send(node.port, tmp_path / f"{number}.dcm")
        node.kill()
        node.start()
        jobs = node.wait_for_jobs(4)
        assert [job["state"] for job in jobs] == ["succeeded"] * 4
        reports = [d for _, d in pacs.objects(tmp_path / "o") if d.SOPClassUID == COMPREHENSIVE_3D_SR]
        assert len(reports) == 4
        assert node.stop() == 0


def test_node_starts_again_after_its_supervisor_alone_was_killed(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", receivers=1, engine=False)
    write_radiograph(tmp_path / "1.dcm", 1)
    write_radiograph(tmp_path / "2.dcm", 2)
    node.start()
    send(node.port, tmp_path / "1.dcm")
    node.kill_supervisor()
    node.start()
    try:
        # The processes of the former one still answer whether the node is ready.
        send(node.port, tmp_path / "2.dcm")
    finally:
        assert node.stop() == 0
    assert len(filled(node.data_dir / "spool")) == 2
    assert not (node.data_dir / "orphans").exists()
