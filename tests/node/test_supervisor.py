"""The supervisor and processes that do not stay."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from db.retry import PROCESS
from node.configuration.loading import load
from node.processes.libraries import Role
from node.processes.supervisor import Child, Supervisor


@pytest.fixture
def supervisor(tmp_path: Path) -> Supervisor:
    file = tmp_path / "config.toml"
    file.write_text("")
    return Supervisor(load(file), lock=0)


def ended() -> subprocess.Popen[bytes]:
    process = subprocess.Popen(["/bin/false"])
    process.wait(10)
    return process


def test_process_that_has_died_a_thousand_times_is_started_again(supervisor: Supervisor) -> None:
    child = Child(role=Role.WEB, number=0, failures=5000)
    child.process, child.started_at = ended(), float("inf")
    supervisor._keep_running(child)
    assert child.process is None
    assert 0 < child.start_after <= time.monotonic() + PROCESS.ceiling
    assert child.failures == 5001


def test_process_that_cannot_be_started_is_tried_again(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_memory(_: Child) -> subprocess.Popen[bytes]:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(supervisor, "_start", no_memory)
    child = Child(role=Role.WEB, number=0)
    for _ in range(3):
        child.start_after = 0.0
        supervisor._keep_running(child)
    assert child.process is None
    assert child.failures == 3


def test_other_data_folder_needs_a_new_start(supervisor: Supervisor, tmp_path: Path) -> None:
    former = supervisor.configuration
    former.file.write_text(f'[node]\ndata_dir = "{tmp_path / "elsewhere"}"\n')
    supervisor._reload()
    assert supervisor.configuration is former
