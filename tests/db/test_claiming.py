"""Which jobs are claimed next: priority, then turns."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import event, insert, text

from db.database import Database, time_text
from db.queue import Queue
from db.records import Done, Job, RetryAfter
from db.tables import flow_of, jobs
from tests.db.conftest import queued_job

RADIOGRAPH, VOLUME = 2_000_000, 150_000_000


def queue_jobs(database: Database, count: int, source: str = "CR1", **values: Any) -> None:
    """Queue many jobs of one source and of the rule ``chest``."""
    moment = time_text(datetime.now(UTC))
    row = {
        "study_instance_uid": "1.1",
        "series_instance_uid": "1.1.1",
        "revision": 1,
        "engine": "cxr",
        "route": "chest",
        "flow": flow_of(source, "chest"),
        "destinations": "[]",
        "state": "queued",
        "priority": 0,
        "inputs": json.dumps(["1.2.3"]),
        "inputs_digest": "d",
        "input_bytes": RADIOGRAPH,
        "created_at": moment,
        "updated_at": moment,
        "summary": json.dumps({"source": source}),
        **values,
    }
    with database.write() as connection:
        connection.execute(insert(jobs), [row] * count)


def sources(claimed: list[Job]) -> Counter[str]:
    """How many jobs are of each source."""
    return Counter((job.summary or {})["source"] for job in claimed)


def claimed_one_by_one(queue: Queue, count: int, engines: tuple[str, ...] = ("cxr",)) -> list[Job]:
    """Jobs as a worker gets them that takes one at a time."""
    return [job for _ in range(count) for job in queue.claim("w", engines, 1, 60)]


def test_claim_takes_inputs_up_to_a_number_of_bytes_but_always_one_job(database: Database) -> None:
    queue = Queue(database)
    studies = [queued_job(database, f"2.{n}", input_bytes=100) for n in range(5)]
    assert [job.input_bytes for job in studies] == [100] * 5
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60, most_bytes=250)] == [s.id for s in studies[:2]]
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60, most_bytes=0)] == [studies[2].id]
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60)] == [s.id for s in studies[3:]]


def test_job_that_does_not_fit_is_not_passed_by_smaller_ones(database: Database) -> None:
    queue = Queue(database)
    for n, size in enumerate((100, 300, 100)):
        queued_job(database, f"2.{n}", input_bytes=size)
    assert [job.input_bytes for job in queue.claim("w", ["cxr"], 9, 60, most_bytes=250)] == [100]
    assert [job.input_bytes for job in queue.claim("w", ["cxr"], 9, 60, most_bytes=250)] == [300]


def test_claim_of_urgent_jobs_leaves_the_others(database: Database) -> None:
    queue = Queue(database)
    queued_job(database, "2.1")
    assert queue.claim("w", ["cxr"], 9, 60, urgent_over=0) == []
    urgent = queued_job(database, "2.2", priority=1)
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60, urgent_over=0)] == [urgent.id]
    assert len(queue.claim("w", ["cxr"], 9, 60)) == 1


def test_urgent_job_that_is_tried_again_is_due_when_its_time_has_come(database: Database) -> None:
    queue = Queue(database)
    queued_job(database, "2.1", priority=1)
    queued_job(database, "2.2")
    (urgent,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(urgent, RetryAfter(seconds=0, reason="disk full"))
    (again,) = queue.claim("w", ["cxr"], 9, 60, urgent_over=0)
    assert again.id == urgent.id
    queue.settle(again, RetryAfter(seconds=3600, reason="disk full"))
    assert queue.claim("w", ["cxr"], 9, 60, urgent_over=0) == []


def test_job_that_was_tried_before_is_claimed_alone(database: Database) -> None:
    queue = Queue(database)
    first, *others = (queued_job(database, f"2.{n}") for n in range(3))
    (held,) = queue.claim("w", ["cxr"], 1, 60)
    queue.settle(held, RetryAfter(seconds=0, reason="disk full"))
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60)] == [first.id]
    assert [job.id for job in queue.claim("w", ["cxr"], 9, 60)] == [job.id for job in others]


def test_urgent_job_is_the_next_one_behind_ten_thousand(database: Database) -> None:
    queue_jobs(database, 10_000)
    queue = Queue(database)
    claimed_one_by_one(queue, 3)
    queue_jobs(database, 1, "CT1", priority=10, engine="ct")
    (urgent,) = queue.claim("w", ["cxr", "ct"], 16, 60)
    assert (urgent.priority, urgent.engine) == (10, "ct")


@pytest.mark.parametrize("limit", [1, 4])
def test_flows_share_in_proportion_to_their_weights(database: Database, limit: int) -> None:
    queue_jobs(database, 200, "CR1", weight=3.0)
    queue_jobs(database, 200, "CR2")
    queue = Queue(database)
    claimed = [job for _ in range(80 // limit) for job in queue.claim("w", ["cxr"], limit, 60)]
    assert sources(claimed) == {"CR1": 60, "CR2": 20}
    assert [job.id for job in claimed] != sorted(job.id for job in claimed)


def test_source_that_comes_back_gets_its_share_and_not_what_it_missed(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 200, "CR1")
    queue_jobs(database, 1, "CR2")
    claimed_one_by_one(queue, 100)
    queue_jobs(database, 200, "CR2")
    queue_jobs(database, 200, "CR3")
    assert sources(claimed_one_by_one(queue, 30)) == {"CR1": 10, "CR2": 10, "CR3": 10}


def test_volume_and_radiographs_do_not_wait_for_all_of_each_other(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 500, "CT1", engine="ct", input_bytes=VOLUME)
    queue_jobs(database, 1000, "CR1")
    claimed = claimed_one_by_one(queue, 240, ("ct", "cxr"))
    volumes = [position for position, job in enumerate(claimed) if job.engine == "ct"]
    # 75 radiographs have the bytes of a volume.
    assert [round(position, -1) for position in volumes] == [0, 80, 150, 230]


def test_volume_of_a_moment_ago_is_not_behind_all_radiographs(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 1000, "CR1")
    claimed_one_by_one(queue, 20, ("ct", "cxr"))
    queue_jobs(database, 1, "CT1", engine="ct", input_bytes=VOLUME)
    assert "CT1" in sources(claimed_one_by_one(queue, 2, ("ct", "cxr")))


def test_turns_cost_what_engines_were_measured_to_need(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 100, "CR1", engine="fast")
    queue_jobs(database, 100, "CR1", engine="slow")
    for job in claimed_one_by_one(queue, 2, ("fast", "slow")):
        queue.measured([job], 0.9 if job.engine == "slow" else 0.1)
    claimed = claimed_one_by_one(queue, 50, ("fast", "slow"))
    assert Counter(job.engine for job in claimed) == {"fast": 45, "slow": 5}


def test_empty_queue_begins_anew_and_an_engine_that_is_asked_alone_does_not(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 1, "CT1", engine="ct", input_bytes=VOLUME)
    queue_jobs(database, 99, "CR1")
    claimed_one_by_one(queue, 10, ("ct", "cxr"))
    assert queue.claim("w", ["ct"], 1, 60) == []
    queue_jobs(database, 1, "CT1", engine="ct", input_bytes=VOLUME)
    assert sources(claimed_one_by_one(queue, 20, ("ct", "cxr"))) == {"CR1": 20}
    assert len(claimed_one_by_one(queue, 100, ("ct", "cxr"))) == 71
    queue_jobs(database, 1, "CT1", engine="ct", input_bytes=VOLUME)
    queue_jobs(database, 99, "CR1")
    assert sources(claimed_one_by_one(queue, 1, ("ct", "cxr"))) == {"CT1": 1}


def test_claim_is_filled_by_all_flows_of_its_engine(database: Database) -> None:
    for number in range(4):
        queue_jobs(database, 2, f"CR{number}")
    queue_jobs(database, 50, "CT1", engine="ct")
    claimed = Queue(database).claim("w", ["ct", "cxr"], 6, 60)
    assert {job.engine for job in claimed} == {"cxr"}
    assert sorted(sources(claimed).values()) == [1, 1, 2, 2]


def test_retried_job_of_one_source_does_not_stop_a_claim_of_another(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 3, "CR1", attempts=0)
    queue_jobs(database, 1, "CR2", attempts=1)
    queue_jobs(database, 2, "CR2")
    first = queue.claim("w", ["cxr"], 9, 60)
    assert (len(first), {job.attempts for job in first}) == (5, {1})
    (alone,) = queue.claim("w", ["cxr"], 9, 60)
    assert alone.attempts == 2


def test_priorities_have_turns_of_their_own(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 50, "CR1", priority=5)
    queue_jobs(database, 50, "CR1")
    queue_jobs(database, 50, "CR2")
    assert sources(claimed_one_by_one(queue, 50)) == {"CR1": 50}
    assert sources(claimed_one_by_one(queue, 20)) == {"CR1": 10, "CR2": 10}


def test_settled_claims_leave_nothing_due(database: Database) -> None:
    queue = Queue(database)
    queue_jobs(database, 3)
    assert queue.claim("w", [], 9, 60) == []
    assert queue.claim("w", ["cxr"], 0, 60) == []
    claimed = queue.claim("w", ["cxr"], 9, 60)
    assert queue.settle_all([(job, Done(model_version="m", results=())) for job in claimed]) == []
    assert queue.claim("w", ["cxr"], 9, 60) == []


def test_no_statement_of_a_claim_reads_all_jobs(database: Database) -> None:
    queue_jobs(database, 300)
    queue_jobs(database, 300, "CT1", engine="ct")
    queue_jobs(database, 300, "CR2", not_before="9999-01-01T00:00:00.000000Z")
    queue_jobs(database, 3, "CR3", not_before="2000-01-01T00:00:00.000000Z")
    sent: list[tuple[str, Any]] = []

    def note(_: object, __: object, statement: str, parameters: Any, ___: object, many: bool) -> None:
        sent.append((statement, parameters[0] if many else parameters))

    queue = Queue(database)
    event.listen(database.engine, "before_cursor_execute", note)
    assert len(queue.claim("w", ["cxr", "ct"], 8, 60)) == 8
    event.remove(database.engine, "before_cursor_execute", note)
    explain = "EXPLAIN QUERY PLAN " if database.is_sqlite else "EXPLAIN "
    plans = {}
    with database.write() as connection:
        if not database.is_sqlite:
            connection.execute(text("SET LOCAL enable_seqscan = off"))  # 900 rows are few
        for statement, parameters in sent:
            if statement.startswith("SET"):
                connection.execute(text(statement))
            elif statement.startswith(("SELECT", "UPDATE", "WITH")):
                lines = connection.exec_driver_sql(explain + statement, parameters)
                plans[statement] = "\n".join(str(line[-1]) for line in lines)
    assert len(plans) >= 6
    for statement, plan in plans.items():
        for slow in (
            "SCAN jobs",
            "SCAN found",
            "TEMP B-TREE FOR ORDER",
            "Seq Scan on jobs",
            "Sort Key",
            "ix_jobs_state",
        ):
            assert slow not in plan, f"{statement}\n{plan}"
