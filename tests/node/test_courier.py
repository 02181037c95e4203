"""A destination's thread: it outlives faults, and leaves a destination alone that cannot be reached."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from sqlalchemy import text

from db.database import Database
from db.outbox import Outbox
from db.queue import Queue
from db.records import Done
from db.retry import RetryPolicy
from handlers.audit.trail import AuditTrail
from handlers.sending.sender import FileToSend, SendResult
from node.configuration.configuration import Configuration
from node.roles.courier import DestinationCourier
from tests.db.conftest import new_result, queued_job
from tests.handlers.conftest import write_object
from tests.peers.scripted import in_turn, scripted_pacs
from tests.peers.waiting import wait_until


def courier_of(configuration: Configuration, database: Database, **changes: Any) -> DestinationCourier:
    (destination,) = configuration.destinations()
    destination = replace(destination, **changes)
    return DestinationCourier(configuration, database, "c", destination, AuditTrail(None))


def waiting_result(configuration: Configuration, database: Database, study: str) -> int:
    """A job with one result for the destination."""
    queued_job(database, study)
    (held,) = Queue(database).claim("w", ["cxr"], 1, 60)
    result = new_result(study)
    written = write_object(configuration.data_dir / result.path, SOPInstanceUID=result.sop_instance_uid)
    Queue(database).settle(
        held, Done(model_version="m", results=(replace(result, sop_class_uid=str(written.SOPClassUID)),))
    )
    return held.id


def test_fault_does_not_end_the_thread_and_holds_up_nothing(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs:
        courier = courier_of(configuration, database, port=pacs.port)
        send = courier.sender.send
        calls: list[int] = []

        def failing_first(files: Sequence[FileToSend]) -> Iterator[SendResult]:
            calls.append(len(files))
            if len(calls) == 1:
                raise TypeError("Canary^Patient in a message of a library")
            return send(files)

        monkeypatch.setattr(courier.sender, "send", failing_first)
        job = waiting_result(configuration, database, "1.1")
        stop = threading.Event()
        thread = threading.Thread(target=courier.serve, args=(stop,))
        thread.start()
        try:
            wait_until(
                lambda: [(d.state, d.attempts) for d in Outbox(database).of_job(job)] == [("sent", 2)],
                20,
                "the result is sent at the second attempt",
            )
        finally:
            stop.set()
            courier.wake.set()
            thread.join()


def test_destination_that_cannot_be_reached_is_left_alone_for_a_while(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.roles.courier.DESTINATION", RetryPolicy(first=60.0, ceiling=60.0))
    jobs = [waiting_result(configuration, database, f"1.{number}") for number in (1, 2, 3)]
    courier = courier_of(configuration, database)
    assert courier.step(threading.Event())
    assert courier._not_before > time.monotonic() + 30
    jobs += [waiting_result(configuration, database, f"1.{number}") for number in (4, 5)]
    assert courier.step(threading.Event())
    with scripted_pacs(in_turn(0x0000)) as pacs:
        courier.sender = courier_of(configuration, database, port=pacs.port).sender
        assert courier.step(threading.Event())
    assert courier._failures == 0
    found = [[(d.state, d.attempts) for d in Outbox(database).of_job(job)] for job in jobs]
    assert found == [[("pending", 1)]] * 4 + [[("sent", 1)]]


def test_path_that_leaves_the_data_folder_fails_for_good_and_holds_up_nothing(
    configuration: Configuration, database: Database
) -> None:
    jobs = [waiting_result(configuration, database, f"1.{number}") for number in (1, 2)]
    with database.write() as connection:
        connection.execute(
            text("UPDATE results SET path = '../secret' WHERE job_id = :job"), {"job": jobs[0]}
        )
    with scripted_pacs(in_turn(0x0000)) as pacs:
        assert courier_of(configuration, database, port=pacs.port).step(threading.Event())
    (refused,), (sent,) = (Outbox(database).of_job(job) for job in jobs)
    assert (refused.state, refused.reason) == ("failed", "its path leads out of the data folder")
    assert sent.state == "sent"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "pacs..local"])
def test_name_that_cannot_be_resolved_is_no_fault(
    configuration: Configuration, database: Database, host: str
) -> None:
    job = waiting_result(configuration, database, "1.1")
    courier = courier_of(configuration, database, host=host)
    assert courier.step(threading.Event())
    (delivery,) = Outbox(database).of_job(job)
    assert delivery.state == "pending"
    assert f"no association with {host}" in str(delivery.reason)
