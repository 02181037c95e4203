"""The same tests on SQLite and on a real Postgres server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from db.database import Database, DatabaseSettings
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import Job, NewInstance, NewResult, PlannedJob
from tests.databases import migrated
from tests.peers.postgres import Postgres

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """One server for all tests."""
    with Postgres(tmp_path_factory.mktemp("postgres")) as server:
        yield server


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'test.db'}"
    server: Postgres = request.getfixturevalue("postgres")
    return server.create(f"test{next(_numbers)}")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database with the schema of this version."""
    if request.param == "sqlite":
        opened = migrated(tmp_path / "test.db", wait_seconds=60.0)
    else:
        server: Postgres = request.getfixturevalue("postgres")
        copied = server.create(f"test{next(_numbers)}", template=server.migrated())
        opened = Database.open(DatabaseSettings(url=copied, wait_seconds=60.0))
    yield opened
    opened.close()


def new_instance(study: str = "1.1", series: str = "1.1.1", **changes: Any) -> NewInstance:
    """An instance that was received just now."""
    number = next(_numbers)
    values: dict[str, Any] = {
        "study_instance_uid": study,
        "series_instance_uid": series,
        "sop_instance_uid": f"{series}.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.1",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "path": f"spool/00/{number}.dcm",
        "size": 100,
        "sha256": f"{number:064x}",
        "calling_ae": "CR1",
        "called_ae": "OVERREAD",
        "peer_address": "127.0.0.1",
        "association": "a1",
        "received_at": datetime.now(UTC),
        "attributes": {"Modality": "CR", "PatientID": "P1"},
    }
    return NewInstance(**{**values, **changes})


def planned(series: str = "1.1.1", digest: str = "d1", **changes: Any) -> PlannedJob:
    """A job that a rule asks for."""
    values: dict[str, Any] = {
        "series_instance_uid": series,
        "engine": "cxr",
        "route": "chest",
        "destinations": ("pacs",),
        "priority": 0,
        "inputs": ("1.2.3",),
        "inputs_digest": digest,
        "input_bytes": 100,
        "source": "CR1",
        "weight": 1.0,
        "skip_reason": None,
    }
    return PlannedJob(**{**values, **changes})


def new_result(study: str = "1.1", kind: str = "sr", **attributes: Any) -> NewResult:
    """An object that a job has made."""
    number = next(_numbers)
    return NewResult(
        kind=kind,
        study_instance_uid=study,
        series_instance_uid=f"{study}.9",
        sop_instance_uid=f"{study}.9.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        path=f"results/{number}.dcm",
        size=10,
        sha256=f"{number:064x}",
        attributes={"PatientID": "P1", "StudyDate": "20260101", "AccessionNumber": "A1", **attributes},
    )


def queued_job(database: Database, study: str = "1.1", **changes: Any) -> Job:
    """A queued job of a complete study."""
    series = f"{study}.1"
    index = Index(database)
    index.record([new_instance(study, series)])
    current = index.study(study)
    assert current is not None
    jobs = Plans(database).complete_study(study, current.instance_count, [planned(series, **changes)])
    assert jobs is not None
    return jobs[-1]


def claimed_job(database: Database, study: str = "1.1", lease_seconds: float = 60.0) -> Job:
    """A job that a worker holds."""
    job = queued_job(database, study)
    (claimed,) = [j for j in Queue(database).claim("w1", ["cxr"], 10, lease_seconds) if j.id == job.id]
    return claimed
