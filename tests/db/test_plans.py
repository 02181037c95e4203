"""Plans: studies become jobs, late images and reprocessing make revisions."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from db.database import Database
from db.index import Index
from db.plans import CAME_TOO_LATE, Plans
from db.queue import Queue
from db.records import Done, Job, PlannedJob
from db.retention import Retention
from db.states import JobState
from tests.db.conftest import new_instance, planned, queued_job


def test_complete_study_becomes_jobs_and_is_no_longer_receiving(database: Database) -> None:
    job = queued_job(database)
    assert (job.state, job.revision, job.predecessor_id) == (JobState.QUEUED, 1, None)
    assert Index(database).receiving() == []


def test_instance_that_came_meanwhile_asks_for_another_plan(database: Database) -> None:
    index = Index(database)
    index.record([new_instance()])
    index.record([new_instance()])
    assert Plans(database).complete_study("1.1", 1, [planned()]) is None
    assert index.receiving()


def test_late_instance_with_other_inputs_makes_a_revision(database: Database) -> None:
    former = queued_job(database)
    latter = queued_job(database, digest="d2")
    assert (latter.revision, latter.predecessor_id) == (2, former.id)
    superseded = Queue(database).get(former.id)
    assert superseded is not None
    assert superseded.state is JobState.SUPERSEDED


def test_late_instance_with_the_same_inputs_changes_nothing(database: Database) -> None:
    job = queued_job(database)
    index, queue = Index(database), Queue(database)
    index.record([new_instance("1.1", "1.1.1")])
    assert Plans(database).complete_study("1.1", 2, [planned("1.1.1")]) == []
    assert [j.id for j in queue.jobs()] == [job.id]
    study = index.study("1.1")
    assert study is not None
    assert study.revision == 1


def test_job_may_be_born_skipped_with_its_reason(database: Database) -> None:
    job = queued_job(database, engine=None, skip_reason="no rule takes this series")
    assert (job.state, job.reason) == (JobState.SKIPPED, "no rule takes this series")


def analysed(database: Database) -> tuple[Job, PlannedJob]:
    """A job that succeeded on the only instance of its study, and its plan."""
    item = new_instance()
    Index(database).record([item])
    plan = planned(inputs=(item.sop_instance_uid,))
    Plans(database).complete_study("1.1", 1, [plan])
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    Queue(database).settle(job, Done(model_version="m", results=()))
    return job, plan


def test_reprocessing_runs_the_present_plan_as_a_new_revision(database: Database) -> None:
    job, plan = analysed(database)
    other = planned("1.1.2", engine="added", inputs=plan.inputs)
    created = Plans(database).reprocess("1.1", 1, [plan, other])
    assert created is not None
    assert [(j.engine, j.revision, j.predecessor_id, j.state) for j in created] == [
        ("cxr", 2, job.id, JobState.QUEUED),
        ("added", 2, None, JobState.QUEUED),
    ]
    former = Queue(database).get(job.id)
    assert former is not None
    assert former.state is JobState.SUPERSEDED
    assert Queue(database).history(job.id)[-1].who == "operator"
    study = Index(database).study("1.1")
    assert study is not None
    assert (study.state, study.revision) == ("complete", 2)


def test_reprocessing_supersedes_what_the_rules_no_longer_ask_for(database: Database) -> None:
    job, _ = analysed(database)
    none = planned(engine=None, skip_reason="no rule takes this series")
    (skipped,) = Plans(database).reprocess("1.1", 1, [none]) or []
    former = Queue(database).get(job.id)
    assert former is not None
    assert (former.state, skipped.state) == (JobState.SUPERSEDED, JobState.SKIPPED)


def test_study_that_is_being_received_is_not_reprocessed(database: Database) -> None:
    _, plan = analysed(database)
    Index(database).record([new_instance()])
    assert Plans(database).reprocess("1.1", 2, [plan]) is None
    assert Index(database).receiving()


def test_reprocessing_leaves_what_succeeded_on_removed_images(database: Database) -> None:
    job, _ = analysed(database)
    assert Retention(database).forget_received(datetime.now(UTC) + timedelta(days=1))
    late = new_instance()
    Index(database).record([late])
    plan = planned(inputs=(late.sop_instance_uid,))
    assert Plans(database).complete_study("1.1", 1, [plan]) == []
    assert Plans(database).reprocess("1.1", 1, [plan]) == []
    kept = Queue(database).get(job.id)
    assert kept is not None
    assert kept.state is JobState.SUCCEEDED
    assert [entry.why for entry in Queue(database).history(job.id)][-2:] == [CAME_TOO_LATE] * 2
