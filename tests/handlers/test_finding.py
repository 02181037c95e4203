"""Finding entities without a connection; by DCMTK in test_roundtrip.py."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.queue import Queue
from db.records import Done
from db.results import Results
from handlers.finding.entities import TooManyResults, find, results_by_uids
from handlers.finding.information_model import Identifier
from tests.databases import migrated
from tests.db.conftest import new_result, queued_job


@pytest.fixture
def results(tmp_path: Path) -> Iterator[Results]:
    """Of three studies."""
    database = migrated(tmp_path / "test.db")
    for study in ("1.1", "1.2", "1.3"):
        queued_job(database, study)
        (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
        result = new_result(study, StudyInstanceUID=study, PatientName=f"Canary^{study}")
        Queue(database).settle(job, Done(model_version="m", results=(result,)))
    yield Results(database)
    database.close()


def test_query_that_lets_too_many_objects_through_is_refused(
    results: Results, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = Identifier(level="STUDY", keys={"StudyInstanceUID": None, "PatientName": None})
    assert len(list(find(results, everything))) == 3
    monkeypatch.setattr("handlers.finding.entities.MAXIMUM_RESULTS", 2)
    with pytest.raises(TooManyResults):
        list(find(results, everything))
    by_uid = {"StudyInstanceUID": ["1.1", "1.2"]}
    by_name = {"StudyInstanceUID": None, "PatientName": "*1.3"}
    for keys, expected in ((by_uid, 2), (by_name, 1)):
        found = list(find(results, Identifier(level="STUDY", keys=keys)))
        assert len(found) == expected


def test_entities_are_answered_with_the_keys_that_were_asked_for(results: Results) -> None:
    asked = Identifier(
        level="STUDY",
        keys={"StudyInstanceUID": "1.2", "PatientName": None, "NumberOfStudyRelatedInstances": None},
    )
    assert list(find(results, asked)) == [
        {
            "PatientName": ["Canary^1.2"],
            "StudyInstanceUID": ["1.2"],
            "NumberOfStudyRelatedInstances": ["1"],
        }
    ]


def test_only_unique_keys_name_what_is_retrieved(results: Results) -> None:
    asked = Identifier(level="STUDY", keys={"StudyInstanceUID": ["1.1", "1.3"], "PatientName": "nobody"})
    assert [result.study_instance_uid for result in results_by_uids(results, asked)] == ["1.1", "1.3"]
