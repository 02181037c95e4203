"""What becomes of a batch that fails."""

from __future__ import annotations

import weakref
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.records import RetryAfter
from inference.engine import Case, Engine
from inference.errors import InferenceError
from inference.findings import Analysis, Refusal
from node.steps.batches import Batches, Cause, Failure
from node.steps.pipeline import Pipeline, outcome_of
from node.steps.reports import written_objects
from sr_writer.context import ReportContext
from tests.db.conftest import new_instance, planned


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


def case() -> Case:
    return cast("Case", SimpleNamespace(source=SimpleNamespace(path=Path("image.dcm"))))


def run(engine: Any, cases: int) -> list[tuple[int, list[Any]]]:
    """Results of items that have one case each."""
    engine.prepare = lambda _files: [case()]
    with ThreadPoolExecutor(1) as readers:
        batches = Batches[int](cast("Engine", engine), lambda _item: [Path("image.dcm")], readers, cases)
        return list(batches.run(range(cases)))


def test_memory_of_a_failed_batch_is_free_before_its_halves_run() -> None:
    engine = SmallEngine()
    results = run(engine, 4)
    assert engine.batches == [4, 2, 1, 1, 2, 1, 1]
    assert [item for item, _ in results] == [0, 1, 2, 3]
    for _, (failure,) in results:
        assert (failure.cause, failure.reason) == (Cause.ENGINE, "later")
        assert isinstance(outcome_of(failure, attempts=1), RetryAfter)


def test_case_that_fails_leaves_the_others_of_its_batch_alone() -> None:
    def infer(cases: list[Any]) -> list[Any]:
        if any(one is bad for one in cases):
            raise ValueError("no")
        return [SimpleNamespace(of=one) for one in cases]

    good, bad = case(), case()
    given = iter([good, bad, good])
    engine = SimpleNamespace(
        settings=SimpleNamespace(name="x"), device="cpu", infer=infer, prepare=lambda _files: [next(given)]
    )
    with ThreadPoolExecutor(1) as readers:
        batches = Batches[int](cast("Engine", engine), lambda _item: [Path("image.dcm")], readers, 3)
        results = [result for _, (result,) in batches.run(range(3))]
    assert [getattr(result, "cause", None) for result in results] == [None, Cause.INPUT, None]
    assert isinstance(results[1], Failure)
    assert results[1].reason.startswith("the engine failed on this input (ValueError at ")


def test_what_cannot_be_read_now_waits_for_the_disk() -> None:
    def prepare(_files: list[Path]) -> list[Any]:
        raise OSError(5, "Input/output error")

    engine = SimpleNamespace(settings=SimpleNamespace(name="x"), device="cpu", prepare=prepare)
    with ThreadPoolExecutor(1) as readers:
        batches = Batches[int](cast("Engine", engine), lambda _item: [Path("image.dcm")], readers, 1)
        ((_, (failure,)),) = batches.run([1])
    assert isinstance(failure, Failure) and failure.cause is Cause.DISK
    assert outcome_of(failure, attempts=2) == RetryAfter(
        seconds=30.0, reason="the inputs cannot be read: Input/output error"
    )


def test_analysis_without_anything_plausible_is_no_report() -> None:
    nothing = SimpleNamespace(
        source=SimpleNamespace(path=Path("image.dcm")),
        findings=(),
        segmentation=None,
        review_advised="a spleen of 9000 ml",
    )
    context = ReportContext(job_seed="s", engine_name="x", content_datetime=datetime.now(UTC))
    refused = written_objects([cast("Analysis", nothing)], context)
    assert refused == Refusal(path=Path("image.dcm"), reason="a spleen of 9000 ml")


def test_path_that_leads_out_of_the_data_folder_costs_the_job_and_not_the_worker(
    database: Database, tmp_path: Path
) -> None:
    index = Index(database)
    instance = new_instance("3.1", "3.1.1", path="../elsewhere.dcm")
    index.record([instance])
    plan = [planned("3.1.1", "d", inputs=(instance.sop_instance_uid,))]
    jobs = Plans(database).complete_study("3.1", 1, plan)
    assert jobs is not None
    failure = Pipeline(database, tmp_path)._inputs(jobs[0])
    assert isinstance(failure, Failure) and failure.cause is Cause.DISK
