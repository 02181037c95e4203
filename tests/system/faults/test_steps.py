"""Processes and the whole node are killed, or a disk fails, at named steps: nothing is lost, nothing done twice."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.peers.faults.steps import STEPS, find
from tests.system.faults.witness import Witness

STRUCK_SECONDS = 60.0
LEFT = {
    "head of a PDU read": "partial",
    "fragments written": "partial",
    "file complete": "unknown",
    "file synced": "unknown",
}
"""What a kill at a step leaves in the spool or among the results until the node starts again."""
WHOLE_NODE = (
    "file synced",
    "outbox rows inserted",
    "result sent",
)
AT_NIGHT = frozenset({"inferring", "all results stored", "outbox committed"})
"""Steps of the worker, whose successors load a model; kills at its two other steps run with ``make test`` too."""
WHOLE_NODE_AT_NIGHT = frozenset({"file synced", "result sent"})
"""As above: one kill of the whole node runs with ``make test`` too."""
DISK = (
    ("fragments written", errno.ENOSPC, "status=A700"),
    ("fragments written", errno.EIO, "status=A700"),
    ("file synced", errno.EIO, "status=A700"),
    ("result file unnamed", errno.ENOSPC, "results_not_written"),
)
"""Steps, what the disk says there, and what the administrator reads in the log."""


def by_speed(steps: Iterable[str], at_night: Collection[str]) -> list[object]:
    """Parameters of a test, those of the night marked as such."""
    return [pytest.param(step, marks=[pytest.mark.slow] if step in at_night else []) for step in steps]


@pytest.fixture(scope="module")
def witness(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Witness]:
    """One node for all cases; each sends studies of its own."""
    with Witness(tmp_path_factory.mktemp("steps"), measured=True).watching() as witness:
        yield witness
        assert witness.node.stop() == 0
        assert list(witness.elsewhere.rglob("*")) == []
        witness.assert_no_patient_in_logs()


@pytest.mark.parametrize("step", STEPS)
def test_step_is_in_the_product(step: str) -> None:
    owner, attribute = find(STEPS[step])
    assert callable(getattr(owner, attribute))


@pytest.mark.parametrize("step", by_speed(STEPS, AT_NIGHT))
def test_process_is_killed_at(witness: Witness, step: str) -> None:
    witness.faults.arm(step)
    with ThreadPoolExecutor(1) as modality:
        sending = modality.submit(witness.send, witness.radiograph())
        witness.faults.wait_until_struck(step, STRUCK_SECONDS)
        note_what_is_left(witness, step)
        witness.assert_serves()
        sending.result()
    witness.assert_intact()


@pytest.mark.parametrize("step", by_speed(WHOLE_NODE, WHOLE_NODE_AT_NIGHT))
def test_whole_node_is_killed_at(witness: Witness, step: str) -> None:
    witness.faults.arm(step, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as modality:
        sending = modality.submit(witness.send, witness.radiograph())
        witness.faults.wait_until_struck(step, STRUCK_SECONDS)
        note_what_is_left(witness, step)
        witness.node.kill()
        witness.start_again()
        witness.assert_serves()
        sending.result()
    witness.assert_intact()


@pytest.mark.parametrize(("step", "error", "logged"), DISK)
def test_disk_fails_at(witness: Witness, step: str, error: int, logged: str) -> None:
    seen = len(witness.node.log)
    witness.faults.arm(step, OSError(error, os.strerror(error)))
    witness.send(witness.radiograph())
    witness.faults.wait_until_struck(step, STRUCK_SECONDS)
    witness.assert_serves()
    witness.assert_intact()
    assert logged in witness.node.log[seen:]


def note_what_is_left(witness: Witness, step: str) -> None:
    left = LEFT.get(step)
    witness.partial += left == "partial"
    witness.unknown += left == "unknown"
