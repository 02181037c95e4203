"""A courier: it outlives faults, and a destination that cannot be reached is left alone and delays no other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import pytest
from pynetdicom.events import Event
from sqlalchemy import text

from db.database import Database
from db.errors import DatabaseUnavailable
from db.outbox import Outbox
from db.queue import Queue
from db.records import Done
from db.retry import RetryPolicy
from handlers.audit.trail import AuditTrail
from handlers.sending.sender import SendResult, send_file
from node.configuration.configuration import Configuration
from node.roles.courier import DestinationCourier
from tests.db.conftest import new_result, queued_job
from tests.handlers.conftest import write_object
from tests.peers.failing import failing_once
from tests.peers.scripted import ScriptedPacs, in_turn, scripted_pacs
from tests.peers.waiting import free_port, wait_until

SECONDS = 20.0
LONG = RetryPolicy(first=600.0, ceiling=600.0)


def courier_of(configuration: Configuration, database: Database, **changes: Any) -> DestinationCourier:
    (destination,) = configuration.destinations()
    destination = replace(destination, **changes)
    return DestinationCourier(configuration, database, "c", destination, AuditTrail(None))


@contextmanager
def serving(*couriers: DestinationCourier) -> Iterator[None]:
    """Couriers at work in threads of their own."""
    stop = threading.Event()
    threads = [threading.Thread(target=courier.serve, args=(stop,)) for courier in couriers]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for courier in couriers:
            courier.hint()
        for thread in threads:
            thread.join()


def waiting_result(
    configuration: Configuration, database: Database, study: str, objects: int = 1, **job: Any
) -> int:
    """A job with results for the destination."""
    queued_job(database, study, **job)
    (held,) = Queue(database).claim("w", ["cxr"], 1, 60)
    results = []
    for _ in range(objects):
        result = new_result(study)
        written = write_object(configuration.data_dir / result.path, SOPInstanceUID=result.sop_instance_uid)
        results.append(replace(result, sop_class_uid=str(written.SOPClassUID)))
    Queue(database).settle(held, Done(model_version="m", results=tuple(results)))
    return held.id


def states_of(database: Database, *jobs: int) -> list[tuple[str, int]]:
    """State and attempts of the deliveries of jobs that go to one destination."""
    return [(str(d.state), d.attempts) for job in jobs for d in Outbox(database).of_job(job)]


def wait_for_states(database: Database, jobs: list[int], *expected: tuple[str, int]) -> None:
    wait_until(
        lambda: states_of(database, *jobs) == list(expected), SECONDS, f"the deliveries are {expected}"
    )


def test_fault_does_not_end_the_sender_and_holds_up_nothing(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[object] = []

    def failing_first(*arguments: Any) -> SendResult:
        calls.append(arguments)
        if len(calls) == 1:
            raise TypeError("Canary^Patient in a message of a library")
        return send_file(*arguments)

    monkeypatch.setattr("handlers.sending.parallel.send_file", failing_first)
    job = waiting_result(configuration, database, "1.1")
    with scripted_pacs(in_turn(0x0000)) as pacs, serving(courier_of(configuration, database, port=pacs.port)):
        wait_for_states(database, [job], ("sent", 2))


def test_fault_of_its_own_does_not_end_the_courier_and_loses_no_delivery(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = waiting_result(configuration, database, "1.1")
    with scripted_pacs(in_turn(0x0000)) as pacs:
        courier = courier_of(configuration, database, port=pacs.port)
        settle = courier.outbox.settle
        calls: list[object] = []

        def failing_first(outcomes: Any) -> Any:
            calls.append(outcomes)
            if len(calls) == 1:
                raise TypeError("a fault")
            return settle(outcomes)

        monkeypatch.setattr(courier.outbox, "settle", failing_first)
        with serving(courier):
            wait_for_states(database, [job], ("sent", 2))


def test_destination_that_cannot_be_reached_is_left_alone_for_a_while(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.roles.courier.DESTINATION", LONG)
    monkeypatch.setattr("node.roles.courier.DELIVERY", LONG)
    jobs = [waiting_result(configuration, database, f"1.{number}") for number in (1, 2, 3)]
    courier = courier_of(configuration, database)
    with serving(courier):
        wait_for_states(database, jobs, *[("pending", 1)] * 3)
        assert courier._not_before > time.monotonic() + 300
        jobs += [waiting_result(configuration, database, f"1.{number}") for number in (4, 5)]
        courier._not_before = 0.0
        courier.hint()
        wait_for_states(database, jobs, *[("pending", 1)] * 4, ("pending", 0))
        with scripted_pacs(in_turn(0x0000)) as pacs:
            courier.sender.destination = replace(courier.destination, port=pacs.port)
            courier._not_before = 0.0
            courier.hint()
            wait_for_states(database, jobs, *[("pending", 1)] * 4, ("sent", 1))
        assert courier._failures == 0


def test_destination_that_is_slow_or_dead_delays_no_other(
    configuration: Configuration, database: Database
) -> None:
    over = threading.Event()

    def slowly(_: Event) -> int:
        assert over.wait(SECONDS)
        return 0x0000

    names = ("pacs", "slow", "dead")
    jobs = [
        waiting_result(configuration, database, f"1.{number}", objects=3, destinations=names)
        for number in range(5)
    ]
    with ExitStack() as stack:
        fast = stack.enter_context(scripted_pacs(in_turn(0x0000)))
        slow = stack.enter_context(scripted_pacs(slowly))
        ports = (fast.port, slow.port, free_port())
        stack.enter_context(
            serving(
                *(
                    courier_of(configuration, database, name=name, port=port)
                    for name, port in zip(names, ports, strict=True)
                )
            )
        )
        stack.callback(over.set)

        def sent(name: str) -> bool:
            found = [d for job in jobs for d in Outbox(database).of_job(job) if d.destination == name]
            return all(d.state == "sent" for d in found)

        wait_until(lambda: sent("pacs"), SECONDS, "the fast destination has everything")
        assert not sent("slow")
        assert not sent("dead")
        over.set()
        wait_until(lambda: sent("slow"), SECONDS, "the slow destination has everything")
        assert len(slow.received) == 15


def test_destination_that_grants_one_association_is_served_without_failures(
    configuration: Configuration, database: Database
) -> None:
    jobs = [waiting_result(configuration, database, f"1.{number}", objects=3) for number in range(10)]
    with scripted_pacs(in_turn(0x0000), maximum_associations=1) as pacs:
        courier = courier_of(configuration, database, port=pacs.port, associations=4)
        with serving(courier):
            wait_for_states(database, jobs, *[("sent", 1)] * 10)
        assert len(pacs.received) == 30
        assert courier._failures == 0


def test_result_of_higher_priority_overtakes_those_that_wait(
    configuration: Configuration, database: Database
) -> None:
    taken, going_on = threading.Event(), threading.Event()

    def answer(_: Event) -> int:
        taken.set()
        assert going_on.wait(SECONDS)
        return 0x0000

    jobs = [waiting_result(configuration, database, f"1.{number}") for number in range(40)]
    with scripted_pacs(answer) as pacs:
        courier = courier_of(configuration, database, port=pacs.port, associations=1)
        with serving(courier):
            assert taken.wait(SECONDS)
            urgent = waiting_result(configuration, database, "1.99", priority=5)
            courier.hint()
            going_on.set()
            wait_for_states(database, [*jobs, urgent], *[("sent", 1)] * 41)
        assert place_of(pacs, database, urgent) < 24


def place_of(pacs: ScriptedPacs, database: Database, job: int) -> int:
    with database.read() as connection:
        uid = connection.execute(
            text("SELECT sop_instance_uid FROM results WHERE job_id = :job"), {"job": job}
        ).scalar_one()
    return pacs.received.index(uid)


def test_result_that_was_sent_when_the_database_was_away_is_not_sent_again(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = waiting_result(configuration, database, "1.1", objects=3)
    with scripted_pacs(in_turn(0x0000)) as pacs:
        courier = courier_of(configuration, database, port=pacs.port)
        monkeypatch.setattr(courier.outbox, "settle", failing_once(courier.outbox.settle))
        with serving(courier):
            wait_for_states(database, [job], ("sent", 1))
        assert len(pacs.received) == 3


def test_what_a_claim_took_though_it_failed_is_claimed_again(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = waiting_result(configuration, database, "1.1")
    with scripted_pacs(in_turn(0x0000)) as pacs:
        courier = courier_of(configuration, database, port=pacs.port)
        claim = courier.outbox.claim
        claimed: list[object] = []

        def unknown_once(*arguments: Any) -> Any:
            deliveries = claim(*arguments)
            if not claimed:
                claimed.extend(deliveries)
                raise DatabaseUnavailable("The connection broke during the commit.")
            return deliveries

        monkeypatch.setattr(courier.outbox, "claim", unknown_once)
        with serving(courier):
            wait_for_states(database, [job], ("sent", 2))


def test_what_still_waits_at_the_end_is_given_back(configuration: Configuration, database: Database) -> None:
    jobs = [waiting_result(configuration, database, f"1.{number}") for number in range(3)]
    taken, going_on = threading.Event(), threading.Event()

    def answer(_: Event) -> int:
        taken.set()
        assert going_on.wait(SECONDS)
        return 0x0000

    with scripted_pacs(answer) as pacs:
        courier = courier_of(configuration, database, port=pacs.port, associations=1)
        stop = threading.Event()
        thread = threading.Thread(target=courier.serve, args=(stop,))
        thread.start()
        assert taken.wait(SECONDS)
        stop.set()
        courier.hint()
        wait_until(lambda: courier.sender._stopping, SECONDS, "the sender is told to end")
        going_on.set()
        thread.join()
        assert states_of(database, *jobs) == [("sent", 1), ("pending", 1), ("pending", 1)]


def test_path_that_leaves_the_data_folder_fails_for_good_and_holds_up_nothing(
    configuration: Configuration, database: Database
) -> None:
    jobs = [waiting_result(configuration, database, f"1.{number}") for number in (1, 2)]
    with database.write() as connection:
        connection.execute(
            text("UPDATE results SET path = '../secret' WHERE job_id = :job"), {"job": jobs[0]}
        )
    with scripted_pacs(in_turn(0x0000)) as pacs, serving(courier_of(configuration, database, port=pacs.port)):
        wait_for_states(database, jobs, ("failed", 1), ("sent", 1))
    (refused,) = Outbox(database).of_job(jobs[0])
    assert refused.reason == "its path leads out of the data folder"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "pacs..local"])
def test_name_that_cannot_be_resolved_is_no_fault(
    configuration: Configuration, database: Database, host: str
) -> None:
    job = waiting_result(configuration, database, "1.1")
    with serving(courier_of(configuration, database, host=host)):
        wait_until(
            lambda: Outbox(database).of_job(job)[0].reason is not None, SECONDS, "the delivery was tried"
        )
    (delivery,) = Outbox(database).of_job(job)
    assert delivery.state == "pending"
    assert f"no association with {host}" in str(delivery.reason)
