"""Decoders that crash, hang or take all memory: the study is skipped with the reason, and the worker lives on."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pydicom
from pydicom.uid import RLELossless

from tests.peers.decoders import misbehaving_decoders
from tests.peers.waiting import wait_until
from tests.system.faults.witness import Witness

LIMITS = """
[reader]
memory = "1500MB"
seconds = 5
"""
REASONS = {
    "crash": "the decoder crashed on this file (SIGABRT)",
    "memory": "the decoder needed more memory than 1.5 GB",
    "hang": "the decoder took longer than 5 seconds",
    "garbage": "the decoder gave an answer that makes no sense",
}


def compressed_radiograph(witness: Witness, word: str) -> tuple[Path, str]:
    """A run-length coded radiograph of its own study, which its decoder treats as its Study ID says."""
    path = witness.radiograph(StudyID=word)
    dataset = pydicom.dcmread(path)
    dataset.compress(RLELossless)
    dataset.save_as(path)
    return path, str(dataset.StudyInstanceUID)


def gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def readers_of(worker: int) -> list[int]:
    """The reader processes of a worker."""
    tasks = Path(f"/proc/{worker}/task").iterdir()
    return [int(pid) for task in tasks for pid in (task / "children").read_text().split()]


def test_decoders_that_fail_cost_their_studies_and_not_the_worker(tmp_path: Path) -> None:
    hook = misbehaving_decoders(tmp_path / "hook")
    hostile = Witness(tmp_path / "site", with_pacs=False, receivers=1, python_path=hook, extra=LIMITS)
    with hostile.watching() as witness:
        node = witness.node
        (worker,) = node.pids("worker")
        words: dict[str, str] = {}
        for word in ["1", *REASONS, "1"]:
            path, study = compressed_radiograph(witness, word)
            words[study] = word
            witness.send(path)
        witness.assert_serves()
        jobs = [job for job in witness.wait_for_jobs() if job["study_instance_uid"] in words]
        assert node.pids("worker") == [worker]
        for job in jobs:
            word = words[job["study_instance_uid"]]
            if word in REASONS:
                assert (job["state"], job["reason"]) == ("skipped", REASONS[word])
            assert job["attempts"] == 1
        refused = next(job for job in jobs if job["state"] == "skipped")
        assert refused["reason"] in " ".join(node.command("show", str(refused["id"])).split())
        witness.assert_intact({study: "skipped" for study, word in words.items() if word in REASONS})
        readers = readers_of(worker)
        assert readers
    assert "process_died" not in node.log
    for pid in readers:
        wait_until(partial(gone, pid), 10, "the readers end with the node")
