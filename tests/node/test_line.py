"""The line of stages: order, batches, faults of engines and of stage processes."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from inference.engine import Engine
from inference.errors import InferenceError
from inference.findings import Refusal
from inference.reading.limits import ReaderLimits
from node.line import transport
from node.line.line import Line
from node.line.pool import StagePool
from node.line.stage_child import StageSettings
from node.line.work import Cause, Failure, Result, Work

SECONDS = 60.0
SETTINGS = StageSettings(
    modules=("tests.node.test_line",), begin=os.getpid, reader_limits=ReaderLimits(processes=1)
)


@dataclass(frozen=True)
class SmallCase:
    """A case of an engine for tests."""

    name: str

    @property
    def source(self) -> Any:
        """What failures name."""
        return SimpleNamespace(path=Path(self.name))


@dataclass
class SmallEngine:
    """Has a case for each file, named like it. The names say what goes wrong, and in which stage."""

    settings: Any = field(default_factory=lambda: SimpleNamespace(name="small"))
    device: str = "cpu"
    batches: Any = None
    gate: Any = None

    def prepare(self, files: Sequence[Path]) -> list[SmallCase | Refusal]:
        """One case for each file."""
        misbehave(files[0].name, "prepare")
        return [
            Refusal(path=file, reason="refused") if file.name == "refused" else SmallCase(file.name)
            for file in files
        ]

    def run(self, cases: Sequence[SmallCase]) -> list[str]:
        """The names, after noting the batch."""
        self.gate.wait(SECONDS)
        self.batches.append([case.name for case in cases])
        for case in cases:
            misbehave(case.name, "run")
        return [case.name for case in cases]

    def conclude(self, case: SmallCase, output: str) -> Any:
        """What stands for an analysis."""
        misbehave(output, "conclude")
        return f"{output} concluded"

    def infer(self, cases: Sequence[SmallCase]) -> list[Any]:
        """All stages of the networks in one."""
        return [self.conclude(case, output) for case, output in zip(cases, self.run(cases), strict=True)]

    def without_networks(self) -> SmallEngine:
        """What other processes get."""
        return replace(self, batches=None, gate=None)


for attribute in (
    "kind",
    "options",
    "header_keywords",
    "takes_series",
    "batch_size",
    "select",
    "load",
    "model",
):
    setattr(SmallEngine, attribute, "of an Engine, and not used here")


def misbehave(name: str, stage: str) -> None:
    """Do what the name says, if it names the stage."""
    fault, _, where = name.partition("-in-")
    if where != stage:
        return
    if fault == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "hangs":
        time.sleep(600)
    raise {"broken": ValueError, "disk": OSError, "later": InferenceError}[fault](5, "as asked")


@contextmanager
def line_of(processes: bool, lanes: int = 2) -> Iterator[tuple[Line[str, list[Result]], Callable[..., Any]]]:
    """A line, and a function that puts works of a small engine with the given files onto it."""
    line: Line[str, list[Result]] = Line(StagePool(lanes, SETTINGS if processes else None))
    gate = threading.Event()
    gate.set()
    engine = SmallEngine(batches=[], gate=gate)

    def put(*names: str, **fields: Any) -> SmallEngine:
        for name in names:
            line.put(
                Work(
                    item=name,
                    engine=cast("Engine", engine),
                    inputs=[Path(name)],
                    finish=list,
                    **{"deadline_seconds": SECONDS, **fields},
                )
            )
        return engine

    try:
        yield line, put
    finally:
        gate.set()
        line.close()


def made_by(line: Line[str, list[Result]]) -> dict[str, Any]:
    """What became of all works, by item, in the order in which they were finished."""
    made: dict[str, Any] = {}
    deadline = time.monotonic() + SECONDS
    while line.held() and time.monotonic() < deadline:
        for work in line.take(1.0):
            made[work.item] = work.made
            line.release(work)
    return made


@pytest.fixture(params=[False, pytest.param(True, marks=pytest.mark.node)], ids=["threads", "processes"])
def processes(request: pytest.FixtureRequest) -> bool:
    """Whether the stages are processes."""
    return bool(request.param)


def test_works_pass_all_stages(processes: bool) -> None:
    with line_of(processes) as (line, put):
        put("a", "b", "refused")
        made = made_by(line)
    assert made == {
        "a": ["a concluded"],
        "b": ["b concluded"],
        "refused": [Refusal(path=Path("refused"), reason="refused")],
    }


@pytest.mark.parametrize("stage", ["prepare", "run", "conclude"])
def test_fault_of_an_engine_fails_one_input(processes: bool, stage: str) -> None:
    bad = f"broken-in-{stage}"
    with line_of(processes) as (line, put):
        engine = put("a", bad, "b", most_in_batch=3, longest_wait=SECONDS)
        made = made_by(line)
    (failure,) = made.pop(bad)
    assert made == {"a": ["a concluded"], "b": ["b concluded"]}
    assert isinstance(failure, Failure) and failure.cause is Cause.INPUT and "ValueError" in failure.reason
    assert engine.batches


def test_what_cannot_be_read_now_waits_for_the_disk(processes: bool) -> None:
    with line_of(processes) as (line, put):
        put("disk-in-prepare")
        ((failure,),) = made_by(line).values()
    assert failure.cause is Cause.DISK
    assert failure.reason == "the inputs cannot be read: as asked"


def test_engine_that_may_work_later_says_so() -> None:
    with line_of(processes=False) as (line, put):
        put("later-in-run")
        ((failure,),) = made_by(line).values()
    assert failure.cause is Cause.ENGINE


@pytest.mark.node
@pytest.mark.parametrize("stage", ["prepare", "conclude"])
def test_killed_stage_process_costs_its_work_alone(stage: str) -> None:
    with line_of(processes=True) as (line, put):
        put("a", f"killed-in-{stage}", "b", "c")
        made = made_by(line)
    killed = made.pop(f"killed-in-{stage}")
    failure = killed[0] if stage == "prepare" else killed
    assert isinstance(failure, Failure) and failure.cause is Cause.PROCESS and "SIGKILL" in failure.reason
    assert made == {name: [f"{name} concluded"] for name in "abc"}


@pytest.mark.node
def test_stage_that_hangs_is_ended() -> None:
    with line_of(processes=True) as (line, put):
        put("hangs-in-prepare", deadline_seconds=0.5)
        put("a")
        made = made_by(line)
    (failure,) = made["hangs-in-prepare"]
    assert (
        failure.cause is Cause.PROCESS
        and failure.reason == "the process that prepares it took longer than 0.5 seconds"
    )
    assert made["a"] == ["a concluded"]


def test_urgent_works_go_first() -> None:
    with line_of(processes=False, lanes=1) as (line, put):
        engine = put("first")
        engine.gate.clear()
        put("slow 1", "slow 2", "slow 3")
        put("urgent", priority=10)
        engine.gate.set()
        made = list(made_by(line))
    assert made.index("urgent") <= 2  # the first one, and the one that the device had begun, are before it


def test_cases_of_several_works_form_a_batch_and_a_single_one_does_not_wait() -> None:
    with line_of(processes=False) as (line, put):
        engine = put("alone", most_in_batch=4, longest_wait=SECONDS)
        assert list(made_by(line)) == ["alone"]
        engine.gate.clear()
        put("blocks")
        put("a", "b", "c", most_in_batch=2, longest_wait=SECONDS)
        engine.gate.set()
        made_by(line)
    assert sorted(map(len, engine.batches)) in ([1, 1, 1, 2], [1, 2, 2])


class DeviceMemory:
    """Stands for tensors of a batch."""


def test_memory_of_a_failed_batch_is_free_before_its_halves_run() -> None:
    former: list[weakref.ref[DeviceMemory]] = []
    sizes: list[int] = []

    def infer(cases: list[Any]) -> list[Any]:
        assert not former or former.pop()() is None
        sizes.append(len(cases))
        memory = DeviceMemory()
        former.append(weakref.ref(memory))
        if len(cases) > 1:
            raise RuntimeError("CUDA out of memory")
        raise InferenceError("later")

    engine = SimpleNamespace(
        settings=SimpleNamespace(name="x"),
        device="cpu",
        prepare=lambda files: [SmallCase(str(number)) for number in range(4)],
        infer=infer,
    )
    line: Line[str, list[Result]] = Line(StagePool(1, None))
    line.put(Work(item="x", engine=cast("Engine", engine), inputs=[Path("x")], finish=list, most_in_batch=4))
    (failures,) = made_by(line).values()
    line.close()
    assert sizes == [4, 2, 1, 1, 2, 1, 1]
    assert [failure.reason for failure in failures] == ["later"] * 4


def test_engine_with_too_few_outputs_fails_its_inputs_and_the_line_goes_on() -> None:
    with line_of(processes=False) as (line, put):
        engine = put()
        run = engine.run
        engine.run = lambda cases: run(cases)[:-1]
        engine.gate.clear()
        put("blocks", "a", "b", most_in_batch=2)
        engine.gate.set()
        made = made_by(line)
        assert {failure.cause for (failure,) in made.values()} == {Cause.INPUT}
        del engine.run
        put("c")
        assert made_by(line) == {"c": ["c concluded"]}


@pytest.mark.parametrize("shape", [(3,), (300, 300), (0,)])
def test_arrays_pass_through_shared_memory(shape: tuple[int, ...]) -> None:
    ours, theirs = socket.socketpair()
    sent = {"a": np.arange(np.prod(shape, dtype=int), dtype=np.float32).reshape(shape), "b": ["text", 7]}
    sender = threading.Thread(target=transport.send, args=(ours, [sent, sent]))
    sender.start()
    received = transport.receive(theirs)
    sender.join()
    np.testing.assert_array_equal(received[1]["a"], sent["a"])
    assert received[0]["b"] == sent["b"]
    received[0]["a"] += 1  # the receiver may write to it
    ours.close()
    with pytest.raises(transport.ChannelClosed):
        transport.receive(theirs)
    theirs.close()
