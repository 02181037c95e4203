"""Series Numbers of results: no two jobs of a study share one, and a rerun of a job has the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import Job, RetryAfter
from inference.findings import Analysis
from node.steps import reports
from node.steps.pipeline import Pipeline
from sr_writer import ReportContext
from tests.db.conftest import new_instance, planned


def new_jobs(database: Database, study: str, *engines: str, digest: str) -> list[Job]:
    """Jobs on one more instance of a study."""
    index = Index(database)
    index.record([new_instance(study, f"{study}.1")])
    count = len(index.instances(study))
    plan = [planned(f"{study}.1", digest, engine=engine) for engine in engines]
    created = Plans(database).complete_study(study, count, plan)
    assert created is not None
    return created


def test_jobs_of_a_study_have_series_numbers_of_their_own(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contexts: list[ReportContext] = []

    def noted(analyses: Any, context: ReportContext) -> None:
        contexts.append(context)
        raise OSError

    monkeypatch.setattr(reports, "write_results", noted)
    first = new_jobs(database, "2.1", "nodules", "organs", digest="d1")
    other = new_jobs(database, "2.2", "nodules", digest="d1")
    second = new_jobs(database, "2.1", "nodules", "organs", digest="d2")
    runner = Pipeline(database, tmp_path)
    analysis = cast(
        "Analysis",
        SimpleNamespace(
            model=SimpleNamespace(version="1"), findings=("one",), source=SimpleNamespace(path=tmp_path)
        ),
    )
    for job in (*first, *second, *other, *first):
        assert isinstance(runner._write(job, [analysis]), RetryAfter)
    numbers = [context.series_number for context in contexts]
    assert numbers == [9000, 9010, 9020, 9030, 9000, 9000, 9010]
    assert Queue(database).earlier_jobs(second[1]) == 3
