"""Roles that run alone beside a whole node, and receivers that take each other's place."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from tests.peers.dcmtk import send, storescu
from tests.peers.node import Node
from tests.peers.waiting import wait_until
from tests.system.conftest import write_radiograph

TWO_DEVICES = """
[[engine]]
name = "other"
kind = "chest_xray"
model = "demo"
device = "auto"
"""


def test_worker_alone_beside_a_node_serves_the_engines_of_every_device(tmp_path: Path) -> None:
    node = Node(tmp_path / "node", receivers=1, extra=TWO_DEVICES)
    node.configuration.write_text(
        node.configuration.read_text().replace('"torch"', '"torch"\ndevice = "cpu"')
    )
    write_radiograph(tmp_path / "image.dcm", 1)
    with node:
        assert len(node.pids("worker")) == 1, "both engines are on one device here"
        log = tmp_path / "alone.log"
        with log.open("wb") as output:
            command = [
                sys.executable,
                "-m",
                "node.cli",
                "serve",
                "--role",
                "worker",
                "-c",
                str(node.configuration),
            ]
            alone = subprocess.Popen(command, stderr=output, cwd=Path(__file__).parents[2])
        try:
            wait_until(lambda: log.read_text().count("model_loaded") == 2, 120, "both models are loaded")
            send(node.port, tmp_path / "image.dcm")
            (job,) = node.wait_for_jobs(1)
            assert job["state"] == "succeeded"
        finally:
            alone.send_signal(signal.SIGTERM)
            assert alone.wait(60) == 0


def test_new_configuration_refuses_no_modality_meanwhile(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "image.dcm", 1)
    with Node(tmp_path / "node", engine=False) as node:
        former = set(node.pids("receiver"))
        node.configuration.write_text(
            node.configuration.read_text().replace("quiet_seconds = 1.0", "quiet_seconds = 2")
        )
        node.reload()
        sent = 0

        def replaced() -> bool:
            nonlocal sent
            storescu(node.port, tmp_path / "image.dcm")  # raises where it is refused
            sent += 1
            return "receivers_replaced" in node.log

        wait_until(replaced, 120, "the new receivers listen and the former ones are gone")
        assert sent > 1
        assert len(former) == len(node.pids("receiver")) == 2
        assert former.isdisjoint(node.pids("receiver"))
