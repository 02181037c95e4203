"""Queries that would take the receiver's memory are refused; others are answered. By DCMTK in test_roundtrip.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.database import Database, DatabaseSettings
from db.queue import Queue
from db.records import Done
from handlers.audit.trail import AuditTrail
from handlers.dimse.identifiers import Identifier
from handlers.services.query import Query, TooManyResults
from tests.db.conftest import new_result, queued_job


@pytest.fixture
def query(tmp_path: Path) -> Iterator[Query]:
    """Over the results of three studies."""
    database = Database.open(DatabaseSettings(url=f"sqlite:///{tmp_path / 'test.db'}"))
    database.upgrade()
    for study in ("1.1", "1.2", "1.3"):
        queued_job(database, study)
        (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
        result = new_result(study, StudyInstanceUID=study, PatientName=f"Canary^{study}")
        Queue(database).settle(job, Done(model_version="m", results=(result,)))
    yield Query(database, "OVERREAD", AuditTrail(None))
    database.close()


def test_query_that_lets_too_many_objects_through_is_refused(
    query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Identifier(level="STUDY", keys={"StudyInstanceUID": None, "PatientName": None})
    assert len(list(query.answers(everything))) == 3
    monkeypatch.setattr("handlers.services.query.MOST_RESULTS", 2)
    with pytest.raises(TooManyResults):
        list(query.answers(everything))
    by_uid = {"StudyInstanceUID": ["1.1", "1.2"]}
    by_name = {"StudyInstanceUID": None, "PatientName": "*1.3"}
    for keys, expected in ((by_uid, 2), (by_name, 1)):
        found = list(query.answers(Identifier(level="STUDY", keys=keys)))
        assert len(found) == expected
