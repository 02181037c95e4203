"""The thread pools of the numerical libraries, in processes of their own: each reads its environment once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference import threads
from inference.threads import thread_environment, usable_cores

ROOT = Path(__file__).resolve().parents[2]


def run(script: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script without any of the variables but those given."""
    inherited = {name: value for name, value in os.environ.items() if name not in thread_environment(1)}
    return subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        check=True,
    )


def test_threads_of_torch_sleep_while_they_wait() -> None:
    script = "from inference.threads import calm_threads; calm_threads(); import torch; print(torch.get_num_threads())"
    done = run(script, OMP_DISPLAY_ENV="VERBOSE")
    assert "GOMP_SPINCOUNT = '0'" in done.stderr
    assert int(done.stdout) == usable_cores()


def test_numpy_and_scipy_start_no_threads() -> None:
    script = (
        "from inference.threads import calm_threads; calm_threads();"
        "import numpy, os, scipy.linalg; print(len(os.listdir('/proc/self/task')))"
    )
    assert run(script).stdout == "1\n"


def test_administrator_has_the_last_word() -> None:
    script = "from inference.threads import calm_threads; calm_threads(); import torch; print(torch.get_num_threads())"
    done = run(script, OMP_NUM_THREADS="1", OMP_WAIT_POLICY="ACTIVE", OMP_DISPLAY_ENV="TRUE")
    assert done.stdout == "1\n"
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in done.stderr


def test_no_program_loads_a_library_before_its_threads_are_calm() -> None:
    script = "import sys, node.cli, node.processes.child; print({'numpy', 'torch'} & sys.modules.keys())"
    assert run(script).stdout == "set()\n"


@pytest.mark.parametrize(
    ("limits", "cores"),
    [
        ({}, 4),
        ({"": "max 100000", "pod": "max 100000", "pod/node": "250000 100000"}, 3),
        ({"pod": "100000 100000", "pod/node": "max 100000"}, 1),
        ({"pod/node": "20000 100000"}, 1),
        ({"pod/node": "900000 100000"}, 4),
        ({"other": "100000 100000"}, 4),
    ],
)
def test_cores_are_those_of_the_affinity_and_of_every_control_group_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], cores: int
) -> None:
    for folder, limit in limits.items():
        (tmp_path / "cgroup" / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / folder / "cpu.max").write_text(f"{limit}\n")
    (tmp_path / "self").write_text("4:cpu:/old\n0::/pod/node\n")
    monkeypatch.setattr(threads, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(threads, "CGROUP_OF_PROCESS", tmp_path / "self")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert usable_cores() == cores


def test_kernel_without_control_groups_limits_by_affinity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "CGROUP_OF_PROCESS", tmp_path / "absent")
    assert usable_cores() == len(os.sched_getaffinity(0))
