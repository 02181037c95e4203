"""Jobs on their way to an outcome."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.records import RetryAfter
from inference.findings import Analysis, Refusal
from node.line.work import Cause, Failure
from node.steps.pipeline import Pipeline
from node.steps.reports import written_objects
from node.steps.written_job import outcome_of
from sr_writer.context import ReportContext
from tests.db.conftest import new_instance, planned


def test_what_may_pass_later_is_tried_again() -> None:
    disk = Failure(path=Path("image.dcm"), reason="the inputs cannot be read", cause=Cause.DISK)
    process = Failure(
        path=Path("image.dcm"), reason="the process that prepares it ended", cause=Cause.PROCESS
    )
    assert outcome_of(disk, attempts=2) == RetryAfter(seconds=30.0, reason=disk.reason)
    assert outcome_of(process, attempts=1) == RetryAfter(seconds=5.0, reason=process.reason)


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
