"""Results as query/retrieve finds them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from db.database import Database
from db.index import Index
from db.plans import Plans
from db.queue import Queue
from db.records import Done
from db.results import Results
from db.retention import Retention
from db.statistics import gather
from tests.db.conftest import new_instance, new_result, queued_job


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


def test_statistics_follow_what_comes_and_what_is_forgotten(database: Database) -> None:
    index, since = Index(database), datetime.now(UTC)
    old = new_instance("1.1", size=7, received_at=since - timedelta(days=2))
    index.record([old, new_instance("1.1", size=10), new_instance("2.1", size=100)])
    numbers = gather(database)
    assert (numbers.instances, numbers.instance_bytes, numbers.instances_last_hour) == (3, 117, 2)
    Plans(database).complete_study("2.1", 1, [])
    assert len(Retention(database).forget_received(since + timedelta(days=1))) == 1
    numbers = gather(database)
    assert (numbers.instances, numbers.instance_bytes, numbers.instances_last_hour) == (2, 17, 1)
