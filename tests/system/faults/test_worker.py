"""Engines that crash, hang or run out of memory: each costs its own job and no other one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph
from tests.system.faults.conftest import CONFIGURATION, install_faulty
from tests.system.faults.witness import Witness, identity


class Studies:
    """Studies at a node whose engine fails as they say; one node for many of them."""

    def __init__(self, folder: Path, plug_in: Path, deadline: int = 60) -> None:
        extra = CONFIGURATION.replace("deadline_seconds = 60", f"deadline_seconds = {deadline}")
        self.witness = Witness(
            folder, with_pacs=False, receivers=1, extra=extra, engine=False, python_path=plug_in
        )
        self.otherwise: dict[str, str] = {}

    def run(self, *words: str) -> tuple[dict[str, dict[str, Any]], str]:
        """Send one study for each word; the ended jobs by word and number, and what was logged meanwhile."""
        witness = self.witness
        seen = len(witness.node.log)
        files = [witness.radiograph(StudyID=word) for word in words]
        names = {
            identity(path)[0]: f"{word}{number}"
            for number, (word, path) in enumerate(zip(words, files, strict=True))
        }
        send(witness.node.port, *files)
        for path in files:
            witness.note(path)
        witness.assert_serves()
        jobs = witness.wait_for_jobs(280)
        ended = {names[job["study_instance_uid"]]: job for job in jobs if job["study_instance_uid"] in names}
        self.otherwise |= {study: str(ended[name]["state"]) for study, name in names.items()}
        witness.assert_intact(self.otherwise)
        return ended, witness.node.log[seen:]


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Studies]:
    folder = tmp_path_factory.mktemp("worker")
    studies = Studies(folder, install_faulty(folder / "plugins"))
    with studies.witness.watching():
        yield studies


def test_crash_in_native_code_ends_as_poisonous_and_harms_no_other_job(studies: Studies) -> None:
    jobs, log = studies.run("fine", "fine", "crash", "fine", "fine")
    states = {name: job["state"] for name, job in jobs.items()}
    assert states.pop("crash2") == "failed"
    assert set(states.values()) == {"succeeded"}
    assert "poisonous" in str(jobs["crash2"]["reason"])
    assert all(int(str(jobs[name]["attempts"])) <= 2 for name in states)
    assert "process_died role=worker" in log


def test_lost_device_costs_the_worker_and_harms_no_other_job(studies: Studies) -> None:
    jobs, log = studies.run("fine", "fine", "lost", "fine", "fine")
    states = {name: job["state"] for name, job in jobs.items()}
    assert states.pop("lost2") == "failed"
    assert set(states.values()) == {"succeeded"}
    assert "poisonous" in str(jobs["lost2"]["reason"])
    assert 'event=device_lost device="cuda:99 that answers no more"' in log


def test_hanging_job_is_ended_at_its_deadline(tmp_path: Path, plug_in: Path) -> None:
    hanging = Studies(tmp_path, plug_in, deadline=5)
    with hanging.witness.watching():
        jobs, log = hanging.run("fine", "hang", "fine")
    assert {name: job["state"] for name, job in jobs.items()} == {
        "fine0": "succeeded",
        "hang1": "failed",
        "fine2": "succeeded",
    }
    assert "worker_hangs" in log


def test_batch_that_is_too_large_is_halved(studies: Studies) -> None:
    jobs, log = studies.run("large", "fine", "large", "memory", "error")
    assert {name: job["state"] for name, job in jobs.items()} == {
        "large0": "succeeded",
        "fine1": "succeeded",
        "large2": "succeeded",
        "memory3": "failed",
        "error4": "failed",
    }
    assert jobs["memory3"]["reason"] == "the device has too little memory for this input alone"
    assert jobs["error4"]["reason"].startswith("the engine failed on this input (RuntimeError at ")
    assert "Canary" not in log


def test_engine_that_fails_offline_costs_its_own_inputs(tmp_path: Path, plug_in: Path) -> None:
    node = Node(tmp_path / "node", extra=CONFIGURATION, engine=False, python_path=plug_in)
    words = ["large", "memory", "fine", "error"]
    for number, word in enumerate(words):
        write_radiograph(tmp_path / f"{number}.dcm", number, StudyID=word)
    files = [str(tmp_path / f"{number}.dcm") for number in range(len(words))]
    cases = node.json("infer", *files, "--engine", "faulty", "--out", str(tmp_path / "out"))
    assert [case["input"] for case in cases] == files
    large, memory, fine, error = (case["skipped"] for case in cases)
    assert large is None and fine is None
    assert memory == "the device has too little memory for this input alone"
    assert error.startswith("the engine failed on this input (RuntimeError at ")


def test_model_that_does_not_load_keeps_its_own_jobs_waiting_alone(tmp_path: Path, plug_in: Path) -> None:
    second = '[[engine]]\nname = "broken"\nkind = "faulty"\nmodel = "broken"\n'
    both = CONFIGURATION.replace('engines = ["faulty"]', 'engines = ["broken", "faulty"]')
    node = Node(tmp_path / "node", receivers=1, extra=second + both, engine=False, python_path=plug_in)
    write_radiograph(tmp_path / "image.dcm", 1)
    with node:
        send(node.port, tmp_path / "image.dcm")

        def states() -> dict[str, str]:
            return {str(job["engine"]): str(job["state"]) for job in node.jobs()}

        wanted = {"broken": "waiting", "faulty": "succeeded"}
        wait_until(lambda: states() == wanted, 180, "one job has ended and the other waits")
        reasons = {job["engine"]: job["reason"] for job in node.jobs()}
        assert reasons["broken"] == "the model cannot be loaded (ValueError): see the log"
        assert len(node.pids("worker")) == 1
    assert "process_died" not in node.log
    assert "Canary" not in node.log


def test_configuration_is_read_again_or_refused_as_a_whole(tmp_path: Path, plug_in: Path) -> None:
    node = Node(tmp_path / "node", receivers=1, extra=CONFIGURATION, engine=False, python_path=plug_in)
    with node:
        workers = node.pids("worker")
        good = node.configuration.read_text()
        node.configuration.write_text(good.replace('kind = "faulty"', 'kind = "fawlty"'))
        node.reload()
        wait_until(lambda: "configuration_refused" in node.log, 60, "the configuration is refused")
        assert node.pids("worker") == workers
        node.configuration.write_text(good.replace("[node]", '[node]\nae_title = "RENAMED"'))
        node.reload()
        wait_until(lambda: "configuration_reloaded" in node.log, 60, "the configuration is taken")

        def renamed() -> bool:
            done = subprocess.run(
                ["/usr/bin/echoscu", "-aec", "RENAMED", "127.0.0.1", str(node.port)], capture_output=True
            )
            return done.returncode == 0

        wait_until(renamed, 120, "the node answers under its new name")
