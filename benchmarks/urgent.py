"""What the queue costs with many jobs in it: looking for work, claims, an urgent job, outcomes one by one and together.

Usage: python -m benchmarks.urgent [--queued N ...]
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import insert

from benchmarks.report import table, write_section
from db.database import Database, DatabaseSettings, time_text
from db.queue import Queue
from db.records import Done, Job, NewResult, Outcome
from db.tables import flow_of, jobs
from tests.peers.postgres import Postgres

TIMES = 20
AT_ONCE = 16
SOURCES = 5
SLICES = 1000
"""Every hundredth job is a CT of so many; the others have one radiograph."""
FINISHED = 50_000
"""Jobs of earlier days, which are in the tables too."""
ROWS_AT_ONCE = 1000

_numbers = itertools.count(1)


def main() -> None:
    """Measure both databases, emptier and fuller, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--queued", type=int, nargs="+", default=[2_000, 10_000, 100_000])
    asked = parser.parse_args()
    columns: dict[str, dict[str, str]] = {}
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as folder:
        with Postgres(Path(folder) / "server") as server:
            for queued in asked.queued:
                for name, url in (
                    ("SQLite", f"sqlite:///{folder}/{queued}.db"),
                    ("Postgres", server.create(f"queued{queued}")),
                ):
                    with _filled(url, queued) as database:
                        columns[f"{name}, {queued:,}"] = _measured(database)
    rows = [(call, *(column[call] for column in columns.values())) for call in next(iter(columns.values()))]
    body = (
        f"Jobs queued for two engines by {SOURCES} sources, every hundredth a CT of {SLICES} slices, and {FINISHED:,} "
        f"finished ones. Medians of {TIMES} calls in milliseconds, with the processor time of the calling process in "
        f"brackets. Postgres runs beside it and does not sync. A job has a report, an overlay and one destination.\n\n"
        + table(("", *columns), rows)
    )
    write_section("Many jobs queued", body)


@contextlib.contextmanager
def _filled(url: str, queued: int) -> Iterator[Database]:
    """A database with so many jobs queued."""
    database = Database.open(DatabaseSettings(url=url))
    database.upgrade()
    finished = (_row(n, "cxr", 1) | {"state": "succeeded"} for n in range(FINISHED))
    waiting = (_row(n, "ct", SLICES) if n % 100 == 0 else _row(n, "cxr", 1) for n in range(queued))
    rows = itertools.chain(finished, waiting)
    while some := list(itertools.islice(rows, ROWS_AT_ONCE)):
        with database.write() as connection:
            connection.execute(insert(jobs), some)
    yield database
    database.close()


def _row(number: int, engine: str, slices: int, priority: int = 0) -> dict[str, Any]:
    moment, study = time_text(datetime.now(UTC)), f"1.2.3.{next(_numbers)}"
    return {
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.1",
        "revision": 1,
        "engine": engine,
        "route": "all",
        "flow": flow_of(f"SOURCE{number % SOURCES}", "all"),
        "destinations": '["pacs"]',
        "state": "queued",
        "priority": priority,
        "inputs": json.dumps([f"1.2.826.0.1.3680043.8.498.{study}.{n}" for n in range(slices)]),
        "inputs_digest": f"{number:064x}",
        "input_bytes": slices * 2_000_000,
        "created_at": moment,
        "updated_at": moment,
    }


def _measured(database: Database) -> dict[str, str]:
    queue, engines = Queue(database), ("cxr", "ct")

    def urgent() -> None:
        with database.write() as connection:
            connection.execute(insert(jobs), _row(0, "ct", 1, priority=9))

    def claimed(limit: int) -> list[tuple[Job, Outcome]]:
        held = queue.claim("w", ("cxr",), limit, 3600)
        return [(job, Done(model_version="m", results=_results(job), summary={"a": 1})) for job in held]

    def one_by_one(settled: list[tuple[Job, Outcome]]) -> None:
        for job, outcome in settled:
            queue.settle(job, outcome)

    return {
        "look, nothing urgent": _median(lambda _: queue.claim("w", engines, 1, 60, urgent_over=0)),
        "look, all is for other engines": _median(lambda _: queue.claim("w", ("mr",), 1, 60)),
        "claim one": _median(lambda _: queue.claim("w", ("cxr",), 1, 3600)),
        "claim the urgent one": _median(lambda _: queue.claim("w", engines, 1, 3600, urgent_over=0), urgent),
        f"claim {AT_ONCE}": _median(lambda _: queue.claim("w", ("cxr",), AT_ONCE, 3600)),
        "settle one": _median(one_by_one, lambda: claimed(1)),
        f"settle {AT_ONCE}, one by one": _median(one_by_one, lambda: claimed(AT_ONCE)),
        f"settle {AT_ONCE} together": _median(queue.settle_all, lambda: claimed(AT_ONCE)),
    }


def _median(call: Callable[[Any], object], prepare: Callable[[], Any] = lambda: None) -> str:
    took, used = [], []
    for _ in range(TIMES):
        prepared = prepare()
        started, processor = time.perf_counter(), time.process_time()
        call(prepared)
        used.append(1000 * (time.process_time() - processor))
        took.append(1000 * (time.perf_counter() - started))
    return f"{statistics.median(took):.2f} ({statistics.median(used):.2f})"


def _results(job: Job) -> tuple[NewResult, ...]:
    return tuple(
        NewResult(
            kind=kind,
            study_instance_uid=job.study_instance_uid,
            series_instance_uid=f"{job.study_instance_uid}.9",
            sop_instance_uid=f"1.2.4.{next(_numbers)}",
            sop_class_uid="1.2.840.10008.5.1.4.1.1.88.34",
            transfer_syntax_uid="1.2.840.10008.1.2.1",
            path=f"results/{job.id}.{kind}.dcm",
            size=30_000,
            sha256=f"{job.id:064x}",
            attributes={"PatientID": "P1", "StudyDate": "20260101", "AccessionNumber": "A1"},
        )
        for kind in ("sr", "overlay")
    )


if __name__ == "__main__":
    main()
