"""Old instances and delivered results are forgotten, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from db.database import Database
from db.index import Index
from db.outbox import Outbox
from db.queue import CAME_TOO_LATE, Queue
from db.records import DeliveryFailed, Done, Sent, Skipped
from db.results import Results
from db.retention import Retention
from db.states import JobState
from tests.db.conftest import new_instance, new_result, planned, queued_job

LATER = datetime.now(UTC) + timedelta(days=1)


def test_instances_of_ended_studies_are_forgotten(database: Database) -> None:
    queued_job(database)
    retention = Retention(database)
    assert retention.forget_received(LATER) == []
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    assert retention.forget_received(LATER) == []
    Queue(database).settle(job, Skipped(reason="lateral"))
    assert retention.forget_received(datetime.now(UTC) - timedelta(days=1)) == []
    paths = {instance.path for instance in Index(database).instances(job.study_instance_uid)}
    assert set(retention.forget_received(LATER)) == paths
    assert Index(database).instances(job.study_instance_uid) == []
    assert Queue(database).get(job.id) is not None


def test_results_are_forgotten_only_when_every_destination_has_them(database: Database) -> None:
    queued_job(database, destinations=("pacs", "second"))
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    Queue(database).settle(job, Done(model_version="m", results=(new_result(),)))
    retention, outbox = Retention(database), Outbox(database)
    assert retention.forget_results(LATER) == []
    (delivery,) = outbox.claim("pacs", "courier", 1, 60)
    outbox.settle(delivery, Sent(status=0))
    assert retention.forget_results(LATER) == []
    (delivery,) = outbox.claim("second", "courier", 1, 60)
    outbox.settle(delivery, DeliveryFailed(reason="refused", status=None))
    assert retention.forget_results(LATER) == []
    outbox.retry(job.id)
    (delivery,) = outbox.claim("second", "courier", 1, 60)
    outbox.settle(delivery, Sent(status=0))
    assert len(retention.forget_results(LATER)) == 1
    assert Results(database).of_job(job.id) == []


def test_late_image_after_retention_leaves_former_jobs_as_they_are(database: Database) -> None:
    index, queue, retention = Index(database), Queue(database), Retention(database)
    index.record([new_instance("1.1", "1.1.1"), new_instance("1.1", "1.1.1"), new_instance("1.1", "1.1.2")])
    plan = [planned("1.1.1", inputs=("1", "2")), planned("1.1.2", inputs=("3",))]
    former = queue.complete_study("1.1", 3, plan)
    assert former is not None
    for job in queue.claim("w", ["cxr"], 9, 60):
        queue.settle(job, Done(model_version="m", results=()))
    assert len(retention.forget_received(LATER)) == 3
    index.record([new_instance("1.1", "1.1.1")])
    study = index.study("1.1")
    assert study is not None
    assert study.instance_count == 1
    assert queue.complete_study("1.1", 1, [planned("1.1.1", "d2", inputs=("4",))]) == []
    assert [queue.get(job.id).state for job in former] == [JobState.SUCCEEDED] * 2  # type: ignore[union-attr]
    assert CAME_TOO_LATE in [entry.why for entry in queue.history(former[0].id)]
    assert CAME_TOO_LATE not in [entry.why for entry in queue.history(former[1].id)]
