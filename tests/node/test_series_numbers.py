"""Series Numbers of results: no two jobs of a study share one, and a rerun of a job has the same."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import Job
from inference.engine import Engine
from node.configuration.tables import EngineTable
from node.steps.pipeline import Pipeline
from node.steps.written_job import WriteJob
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


def test_jobs_of_a_study_have_series_numbers_of_their_own(database: Database, tmp_path: Path) -> None:
    first = new_jobs(database, "2.1", "nodules", "organs", digest="d1")
    other = new_jobs(database, "2.2", "nodules", digest="d1")
    second = new_jobs(database, "2.1", "nodules", "organs", digest="d2")
    pipeline = Pipeline(database, tmp_path)
    engine = cast("Engine", SimpleNamespace(model=SimpleNamespace(version="1"), batch_size=1))
    table = EngineTable(name="x", kind="chest_xray", model="m")
    works = [pipeline.work(engine, table, job) for job in (*first, *second, *other, *first)]
    numbers = [cast("WriteJob", work.finish).context.series_number for work in works]
    assert numbers == [9000, 9010, 9020, 9030, 9000, 9000, 9010]
    assert Queue(database).earlier_jobs(second[1]) == 3
