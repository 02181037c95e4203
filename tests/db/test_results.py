"""Results as query/retrieve finds them."""

from __future__ import annotations

from typing import Any

import pytest

from db.database import Database
from db.queue import Queue
from db.records import Done
from db.results import Results
from db.statistics import gather
from tests.db.conftest import new_result, queued_job


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, 3),
        ({"patient_id": "P1"}, 2),
        ({"patient_id": "P9"}, 0),
        ({"accession_number": "A2"}, 1),
        ({"study_date_from": "20260102"}, 1),
        ({"study_date_from": "20260101", "study_date_to": "20260101"}, 2),
        ({"study_instance_uids": ["1.1"]}, 3),
        ({"series_instance_uids": ["1.1.9", "5"]}, 3),
        ({"sop_instance_uids": ["5"]}, 0),
    ],
)
def test_filters(database: Database, filters: dict[str, Any], expected: int) -> None:
    queued_job(database)
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    results = (
        new_result(),
        new_result(kind="overlay"),
        new_result(PatientID="P2", StudyDate="20260105", AccessionNumber="A2"),
    )
    Queue(database).settle(job, Done(model_version="m", results=results))
    assert len(list(Results(database).find(**filters))) == expected


def test_statistics_count_everything(database: Database) -> None:
    queued_job(database)
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    Queue(database).settle(job, Done(model_version="m", results=(new_result(),)))
    queued_job(database, "2.1")
    numbers = gather(database)
    assert numbers.jobs == {"succeeded": 1, "queued": 1}
    assert numbers.instances == 2
    assert numbers.results == 1
    assert numbers.deliveries == {("pacs", "pending"): 1}
    assert numbers.running.count == 1
    assert set(numbers.oldest_job) >= {"queued"}
