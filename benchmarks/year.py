"""What a node asks of its database with a year of studies behind it, and without.

Usage: python -m benchmarks.year [--days N] [--studies N]
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Table, insert

from benchmarks.report import table, write_section
from db.database import Database, DatabaseSettings, time_text
from db.index import Index
from db.outbox import Outbox
from db.queue import Queue
from db.records import NewInstance
from db.results import Results
from db.retention import Retention
from db.statistics import gather
from db.tables import deliveries, history, instances, jobs, results, studies
from node.views.documents import Views

SLICES = 300
"""Every tenth study is a CT of so many; the others have two radiographs."""
STUDY = "1.2.3.0.10"
ATTRIBUTES = {
    "Modality": "CT",
    "PatientName": "Year^A",
    "StudyDate": "20260101",
    "SeriesDescription": "Chest",
}
TIMES = 5

Rows = dict[Table, list[dict[str, Any]]]
_numbers = itertools.count(1)


def main() -> None:
    """Measure both databases turn by turn and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--days", type=int, default=365)
    parser.add_argument("--studies", type=int, default=100, help="studies a day")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as folder:
        new, old = (_database(Path(folder) / name) for name in ("new.db", "old.db"))
        _fill(new, _day(0, 11))
        for day in range(asked.days):
            _fill(old, _day(day, asked.studies))
        numbers = gather(old)
        rows = [
            (name, f"{_median(partial(call, new)):.2f}", f"{_median(partial(call, old)):.2f}")
            for name, call in CALLS.items()
        ]
        size = (Path(folder) / "old.db").stat().st_size / 1e9
        new.close()
        old.close()
    body = (
        f"SQLite, {asked.days} days of {asked.studies} studies: {numbers.instances} instances, {numbers.results} "
        f"results, {size:.1f} GB, nothing removed by age. Medians of {TIMES} calls, milliseconds.\n\n"
        + table(("", "a new node", f"after {asked.days} days"), rows)
    )
    write_section("A year", body)


CALLS: dict[str, Callable[[Database], Any]] = {
    "index a received instance": lambda database: Index(database).record([_received()]),
    "look for studies that are complete": lambda database: Index(database).receiving(),
    "claim jobs, none due": lambda database: Queue(database).claim("w", ["cxr"], 8, 60),
    "claim deliveries, none due": lambda database: Outbox(database).claim("pacs", "c", 8, 60),
    "look for lost leases": lambda database: Queue(database).reclaim_expired(datetime.now(UTC)),
    "`overread queue`": lambda database: [Views(database).job(j) for j in Queue(database).jobs(limit=50)],
    "`overread show`, a CT": lambda database: Views(database).study(STUDY),
    "C-FIND by patient": lambda database: list(Results(database).find(patient_id="P7")),
    "C-FIND by accession number": lambda database: list(Results(database).find(accession_number="A0.7")),
    "look for what is too old, nothing is": lambda database: Retention(database).forget_received(
        datetime.now(UTC) - timedelta(days=10_000)
    ),
    "`overread stats`, `/metrics`": gather,
    "read all paths at a start": lambda database: Index(database).known_paths(),
}


def _database(path: Path) -> Database:
    database = Database.open(DatabaseSettings(url=f"sqlite:///{path}"))
    database.upgrade()
    return database


def _median(call: Callable[[], Any]) -> float:
    took = []
    for _ in range(TIMES):
        started = time.perf_counter()
        call()
        took.append(1000 * (time.perf_counter() - started))
    return statistics.median(took)


def _received() -> NewInstance:
    number = next(_numbers)
    return NewInstance(
        **_instance(f"1.2.4.{number}", number) | {"received_at": datetime.now(UTC), "attributes": {}}
    )


def _fill(database: Database, rows: Rows) -> None:
    with database.write() as connection:
        for target, values in rows.items():
            connection.execute(insert(target), values)


def _day(day: int, count: int) -> Rows:
    """Rows of one day's studies, each received, analysed, and its two results delivered."""
    rows: Rows = {t: [] for t in (studies, instances, jobs, results, deliveries, history)}
    for number in range(count):
        study, job = f"1.2.3.{day}.{number}", day * count + number + 1
        moment = time_text(datetime.now(UTC) - timedelta(days=365 - day, seconds=-number))
        size = 2 if number % 10 else SLICES
        received = [_instance(study, n) for n in range(size)]
        timed = {"received_at": moment, "attributes": json.dumps(ATTRIBUTES)}
        rows[instances] += [values | timed for values in received]
        rows[studies].append(
            {"study_instance_uid": study, "state": "complete", "revision": 1, "instance_count": size}
            | {"instance_bytes": sum(i["size"] for i in received), "first_instance_at": moment}
            | {"last_instance_at": moment, "association": study, "released": True, "modalities": '["CT"]'}
        )
        uids = [i["sop_instance_uid"] for i in received]
        moments = ("created_at", "updated_at", "started_at", "finished_at")
        rows[jobs].append(
            {"id": job, "study_instance_uid": study, "series_instance_uid": f"{study}.1", "revision": 1}
            | {"engine": "cxr", "destinations": '["pacs"]', "state": "succeeded", "priority": 0}
            | {"inputs": json.dumps(uids), "inputs_digest": f"{job:064x}", "summary": "{}"}
            | dict.fromkeys(moments, moment)
        )
        rows[history] += _story("job", job, moment)
        for identifier in (2 * job - 1, 2 * job):
            rows[results].append(
                {"id": identifier, "job_id": job, "kind": "sr", "study_instance_uid": study}
                | {"series_instance_uid": f"{study}.2", "sop_instance_uid": f"{study}.2.{identifier}"}
                | {"sop_class_uid": "1.2", "transfer_syntax_uid": "1.2", "path": f"results/{identifier}"}
                | {"size": 30_000, "sha256": f"{identifier:064x}", "patient_id": f"P{job}"}
                | {"study_date": "20260101", "accession_number": f"A{day}.{number}"}
                | {"attributes": json.dumps(ATTRIBUTES), "created_at": moment}
            )
            rows[deliveries].append(
                {"id": identifier, "job_id": job, "result_id": identifier, "destination": "pacs"}
                | {"state": "sent", "created_at": moment, "updated_at": moment}
            )
            rows[history] += _story("delivery", identifier, moment)
    return rows


def _instance(study: str, number: int) -> dict[str, Any]:
    return {
        "study_instance_uid": study,
        "series_instance_uid": f"{study}.1",
        "sop_instance_uid": f"{study}.1.{number}",
        "sop_class_uid": "1.2.840.10008.5.1.4.1.1.2",
        "transfer_syntax_uid": "1.2.840.10008.1.2.1",
        "path": f"spool/00/{study}.{number}.dcm",
        "size": 524_288,
        "sha256": f"{number:064x}",
        "calling_ae": "CT1",
        "called_ae": "OVERREAD",
        "peer_address": "10.0.0.1",
        "association": study,
    }


def _story(subject: str, identifier: int, moment: str) -> Iterator[dict[str, Any]]:
    for number in range(3):
        yield {"subject": subject, "subject_id": identifier, "at": moment, "who": "worker"} | {
            "to_state": f"state {number}",
            "why": "as planned",
        }


if __name__ == "__main__":
    main()
