"""A worker and a courier that lose the database before they can say what came of their work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from db.database import Database
from db.errors import DatabaseUnavailable
from db.outbox import Outbox
from db.queue import Queue
from db.records import Done, WaitingFor
from db.states import JobState
from handlers.audit.trail import AuditTrail
from handlers.settings import AuditSettings
from node.configuration.configuration import Configuration
from node.roles.courier import DestinationCourier
from node.roles.worker import Worker
from tests.db.conftest import new_result, queued_job
from tests.handlers.conftest import write_object
from tests.peers.failing import failing_once
from tests.peers.scripted import in_turn, scripted_pacs
from tests.peers.waiting import wait_until

SECONDS = 20.0
"""Leases last for a minute and more."""


@contextmanager
def serving(serve: Callable[[threading.Event], None]) -> Iterator[None]:
    stop = threading.Event()
    thread = threading.Thread(target=serve, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def test_job_is_done_again_at_once_and_not_blamed(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queued_job(database)
    worker = Worker(configuration, database, "w", ["cxr"])
    monkeypatch.setattr(worker.queue, "settle_all", failing_once(worker.queue.settle_all))
    with serving(worker.serve):
        wait_until(
            lambda: _state(database, job.id) is JobState.WAITING, SECONDS, "the job waits for its model"
        )
    settled = Queue(database).get(job.id)
    assert settled is not None
    assert settled.attempts == 0


def test_delivery_is_tried_again_at_once(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = queued_job(database)
    (held,) = Queue(database).claim("w", ["cxr"], 1, 60)
    result = new_result()
    (configuration.data_dir / result.path).write_bytes(b"no object")
    Queue(database).settle(held, Done(model_version="m", results=(result,)))
    (destination,) = configuration.destinations()
    courier = DestinationCourier(configuration, database, "c", destination, AuditTrail(None))
    monkeypatch.setattr(courier.outbox, "settle", failing_once(courier.outbox.settle))
    with serving(courier.serve):
        wait_until(
            lambda: all(d.reason is not None for d in Outbox(database).of_job(job.id)),
            SECONDS,
            "the delivery has an outcome",
        )


def test_what_was_delivered_when_the_database_broke_off_is_in_the_audit_trail(
    configuration: Configuration, database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued_job(database)
    (held,) = Queue(database).claim("w", ["cxr"], 1, 60)
    result = new_result()
    written = write_object(tmp_path / "object.dcm", SOPInstanceUID=result.sop_instance_uid)
    result = replace(result, sop_class_uid=str(written.SOPClassUID))
    (tmp_path / "object.dcm").rename(configuration.data_dir / result.path)
    Queue(database).settle(held, Done(model_version="m", results=(result,)))
    audit = AuditTrail(AuditSettings(folder=tmp_path / "audit", source="OVERREAD"))
    with scripted_pacs(in_turn(0x0000)) as pacs:
        (destination,) = configuration.destinations()
        destination = replace(destination, port=pacs.port)
        courier = DestinationCourier(configuration, database, "c", destination, audit)
        monkeypatch.setattr(courier.outbox, "settle", failing_once(courier.outbox.settle))
        with serving(courier.serve):
            wait_until(
                lambda: [d.state for d in Outbox(database).of_job(held.id)] == ["sent"],
                SECONDS,
                "the delivery is recorded",
            )
    audit.close()
    assert pacs.received == [result.sop_instance_uid]
    (trail,) = (tmp_path / "audit").iterdir()
    assert trail.read_text().count(f'ParticipantObjectID="{result.study_instance_uid}"') == 1


def test_jobs_that_wait_are_woken_though_the_database_was_away(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    queued_job(database)
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    Queue(database).settle(job, WaitingFor(reason="no model"))
    worker = Worker(configuration, database, "w", ["cxr"])
    monkeypatch.setattr(worker, "_load", lambda _: object())
    monkeypatch.setattr(worker.queue, "wake_waiting", failing_once(worker.queue.wake_waiting))
    with pytest.raises(DatabaseUnavailable):
        worker._load_models()
    worker._load_models()
    assert _state(database, job.id) is JobState.QUEUED


def _state(database: Database, job: int) -> JobState | None:
    found = Queue(database).get(job)
    return None if found is None else found.state
