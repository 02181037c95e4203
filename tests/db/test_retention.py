"""Old instances and delivered results are forgotten, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from db.database import Database
from db.index import Index
from db.outbox import Outbox
from db.queue import Queue
from db.records import DeliveryFailed, Done, Sent, Skipped
from db.results import Results
from db.retention import Retention
from tests.db.conftest import new_result, queued_job

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
