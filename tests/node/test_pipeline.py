"""What the pipeline does with a batch that fails, without a database's jobs."""

from __future__ import annotations

import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from db.database import Database
from db.records import Job, RetryAfter, Skipped
from inference.engine import Case, Engine
from inference.errors import InferenceError
from node.steps.pipeline import Pipeline, Prepared


class DeviceMemory:
    """Stands for tensors of a batch."""


class SmallEngine:
    """Takes one case at once; the memory of a batch that failed has to be free when it is called again."""

    device = "cpu"
    settings = SimpleNamespace(name="small")

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.former: weakref.ref[DeviceMemory] | None = None

    def infer(self, cases: list[Any]) -> list[Any]:
        assert self.former is None or self.former() is None
        self.batches.append(len(cases))
        memory = DeviceMemory()
        self.former = weakref.ref(memory)
        if len(cases) > 1:
            raise RuntimeError("CUDA out of memory")
        raise InferenceError("later")


def test_memory_of_a_failed_batch_is_free_before_its_halves_run(database: Database, tmp_path: Path) -> None:
    engine = SmallEngine()
    prepared = [
        Prepared(job=cast("Job", number), cases=(cast("Case", SimpleNamespace()),)) for number in range(4)
    ]
    outcomes = list(Pipeline(database, tmp_path)._infer(cast("Engine", engine), prepared))
    assert engine.batches == [4, 2, 1, 1, 2, 1, 1]
    assert [job for job, _ in outcomes] == [0, 1, 2, 3]
    assert all(isinstance(outcome, RetryAfter) for _, outcome in outcomes)


def test_job_without_anything_plausible_is_skipped_with_the_reason(
    database: Database, tmp_path: Path
) -> None:
    nothing = SimpleNamespace(
        model=SimpleNamespace(version="1"),
        findings=(),
        segmentation=None,
        review_advised="a spleen of 9000 ml",
    )
    engine = SimpleNamespace(settings=SimpleNamespace(name="x"), device="cpu", infer=lambda _cases: [nothing])
    prepared = [Prepared(job=cast("Job", 1), cases=(cast("Case", SimpleNamespace()),))]
    outcomes = list(Pipeline(database, tmp_path)._infer(cast("Engine", engine), prepared))
    assert outcomes == [(1, Skipped(reason="a spleen of 9000 ml", model_version="1"))]
