"""Old instances and delivered results are forgotten, and nothing else."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from db.database import Database
from db.index import Index
from db.outbox import Outbox
from db.plans import CAME_TOO_LATE, Plans
from db.queue import Queue
from db.records import DeliveryFailed, Done, Outcome, Sent, Skipped
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
    outbox.settle([(delivery, Sent(status=0))])
    assert retention.forget_results(LATER) == []
    (delivery,) = outbox.claim("second", "courier", 1, 60)
    outbox.settle([(delivery, DeliveryFailed(reason="refused", status=None))])
    assert retention.forget_results(LATER) == []
    outbox.retry(job.id)
    (delivery,) = outbox.claim("second", "courier", 1, 60)
    outbox.settle([(delivery, Sent(status=0))])
    assert len(retention.forget_results(LATER)) == 1
    assert Results(database).of_job(job.id) == []


def test_late_images_after_retention_leave_what_succeeded_as_it_is(database: Database) -> None:
    index, queue, retention = Index(database), Queue(database), Retention(database)
    first, second, third = (new_instance("1.1", series) for series in ("1.1.1", "1.1.2", "1.1.3"))
    index.record([first, second, third])
    plan = [planned(i.series_instance_uid, inputs=(i.sop_instance_uid,)) for i in (first, second, third)]
    jobs = Plans(database).complete_study("1.1", 3, plan)
    assert jobs is not None
    outcomes: tuple[Outcome, ...] = (
        Done(model_version="m", results=()),
        Done(model_version="m", results=()),
        Skipped(reason="few"),
    )
    for job, outcome in zip(queue.claim("w", ["cxr"], 9, 60), outcomes, strict=True):
        queue.settle(job, outcome)
    assert len(retention.forget_received(LATER)) == 3
    late = [new_instance("1.1", series) for series in ("1.1.1", "1.1.3")]
    index.record(late)
    study = index.study("1.1")
    assert study is not None
    assert study.instance_count == 2
    plan = [planned(i.series_instance_uid, "d2", inputs=(i.sop_instance_uid,)) for i in late]
    (fresh,) = Plans(database).complete_study("1.1", 2, plan) or []
    assert (fresh.series_instance_uid, fresh.predecessor_id) == ("1.1.3", jobs[2].id)
    now = [queue.get(job.id) for job in jobs]
    assert [job.state for job in now if job] == [JobState.SUCCEEDED, JobState.SUCCEEDED, JobState.SUPERSEDED]
    whys = [[entry.why for entry in queue.history(job.id)] for job in jobs]
    assert [CAME_TOO_LATE in why for why in whys] == [True, False, False]
