"""Migrations, a database that is away, and processes that write at once."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.config import Config
from sqlalchemy import insert, select, text

from db.database import CHECKPOINT_BYTES, Database, DatabaseSettings, read_time, time_text
from db.errors import DatabaseUnavailable, SchemaTooNew
from db.index import Index
from db.queue import Queue
from db.records import StoreVerdict
from db.statistics import gather
from db.tables import instances, jobs
from db.wal import filled_beyond
from tests.databases import migrated
from tests.db.conftest import new_instance
from tests.peers.postgres import Postgres
from tests.peers.waiting import wait_until

ROOT = Path(__file__).resolve().parents[2]


def test_empty_database_is_upgraded_to_this_version(url: str) -> None:
    database = Database.open(DatabaseSettings(url=url))
    assert database.schema_status() == "empty"
    database.upgrade()
    assert database.schema_status() == "current"
    database.upgrade()
    assert database.schema_status() == "current"
    database.close()


def test_times_as_text_have_one_width_and_the_order_of_time() -> None:
    first = datetime(2026, 3, 1, 12, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))
    moments = [first, first.replace(microsecond=10), first.replace(hour=13, microsecond=0)]
    texts = [time_text(moment) for moment in moments]
    assert texts[0] == "2026-03-01T10:00:00.000005Z"
    assert {len(text) for text in texts} == {27}
    assert texts == sorted(texts)
    assert [read_time(text) for text in texts] == moments


def test_rows_of_a_former_schema_are_kept(url: str) -> None:
    database = Database.open(DatabaseSettings(url=url))
    config = Config()
    config.set_main_option("script_location", str(ROOT / "db" / "migrations"))
    at = time_text(datetime.now(UTC))
    with database.engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0001")
        received = [asdict(new_instance(size=size)) for size in (30, 4)]
        for values in received:
            connection.execute(insert(instances).values(values | {"received_at": at, "attributes": "{}"}))
        connection.execute(
            text(
                "INSERT INTO studies (study_instance_uid, state, revision, instance_count, first_instance_at,"
                " last_instance_at, association, released, modalities)"
                " VALUES ('1.1', 'receiving', 0, 2, :at, :at, 'a1', false, '[]')"
            ),
            {"at": at},
        )
        uids = json.dumps([values["sop_instance_uid"] for values in received])
        for state in ("queued", "queued", "succeeded"):
            connection.execute(
                text(
                    "INSERT INTO jobs (study_instance_uid, series_instance_uid, revision, engine, route, destinations,"
                    " state, priority, attempts, inputs, inputs_digest, created_at, updated_at, review_advised)"
                    " VALUES ('1.1', '1.1.1', 1, 'cxr', 'chest', '[]', :state, 0, 0, :uids, 'd', :at, :at, false)"
                ),
                {"at": at, "uids": uids, "state": state},
            )
        connection.execute(text("UPDATE jobs SET inputs = '[\"5.5\"]' WHERE id = 2"))  # removed by age
    assert database.schema_status() == "old"
    database.upgrade()
    claimed = Queue(database).claim("w", ["cxr"], 3, 60)
    assert [(job.id, job.input_bytes) for job in claimed] == [(1, 34), (2, 0)]
    with database.read() as connection:
        rows = connection.execute(select(jobs.c.flow, jobs.c.weight).order_by(jobs.c.id)).all()
    assert [tuple(row) for row in rows] == [("CR1\\chest", 1.0), ("\\chest", 1.0), ("", 1.0)]
    assert gather(database).instance_bytes == 34
    Index(database).record([new_instance(size=5)])
    assert gather(database).instance_bytes == 39
    database.close()


def test_newer_database_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    assert database.schema_status() == "newer"
    with pytest.raises(SchemaTooNew):
        database.upgrade()


@pytest.mark.peer
def test_server_that_is_away_is_reported_and_used_again_when_it_is_back(tmp_path: Path) -> None:
    with Postgres(tmp_path / "server") as server:
        database = Database.open(DatabaseSettings(url=server.create("away"), wait_seconds=20))
        database.upgrade()
        index = Index(database)
        index.record([new_instance()])
        server.stop()
        with pytest.raises(DatabaseUnavailable):
            index.record([new_instance()])
        server.start()
        index.record([new_instance()])
        assert len(index.instances("1.1")) == 2
        database.close()


def test_server_that_is_gone_without_a_word_is_noticed(postgres: Postgres) -> None:
    database = Database.open(DatabaseSettings(url=postgres.create("silent"), wait_seconds=2))
    with database.read() as connection:
        driver: Any = connection.connection.dbapi_connection
        parameters = driver.info.get_parameters()
    database.close()
    assert parameters["tcp_user_timeout"] == "30000"
    assert parameters["keepalives_idle"] == "10"


def test_no_value_is_in_the_error_of_a_failed_statement(database: Database) -> None:
    database.close()
    broken = DatabaseSettings(
        url=database.settings.url.replace("overread@", "nobody@").replace("test.db", "no/test.db")
    )
    with pytest.raises(DatabaseUnavailable) as caught:
        Index(Database.open(broken)).record([new_instance(attributes={"PatientName": "Canary"})])
    assert "Canary" not in str(caught.value)


WRITER = """
import sys
from db.database import Database, DatabaseSettings
from db.index import Index
from db.queue import Queue
from tests.databases import migrated
from tests.db.conftest import new_instance
database = Database.open(DatabaseSettings(url=sys.argv[1], wait_seconds=20))
index = Index(database)
for number in range(60):
    uid = f"9.{sys.argv[2]}.1.{number}"
    index.record([new_instance("9.9", "9.9.1", sop_instance_uid=uid, path=uid, sha256=uid.ljust(64, "0"))])
database.close()
"""


def test_processes_that_write_at_once_lose_nothing(database: Database) -> None:
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, database.settings.url, str(n)], cwd=ROOT)
        for n in range(4)
    ]
    assert [writer.wait(120) for writer in writers] == [0] * 4
    study = Index(database).study("9.9")
    assert study is not None
    assert study.instance_count == 240


def test_write_ahead_log_stays_short(tmp_path: Path) -> None:
    database = migrated(tmp_path / "test.db")
    index = Index(database)
    for _ in range(40):
        index.record([new_instance(attributes={"StudyDescription": "x" * 4000}) for _ in range(50)])
    assert (tmp_path / "test.db-wal").stat().st_size < 10 * 1024 * 1024
    database.close()


def test_log_that_a_long_read_made_long_is_short_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("db.database.CHECKPOINT_BYTES", 100_000)
    monkeypatch.setattr("db.database.LOG_BYTES", 400_000)
    monkeypatch.setattr("db.database.CHECKPOINT_RETRY_SECONDS", 0.0)
    # Writers that waited for the reader would not be done before the test's own limit.
    database = migrated(tmp_path / "test.db", wait_seconds=60)
    index = Index(database)
    log = tmp_path / "test.db-wal"

    def write(times: int) -> None:
        for _ in range(times):
            index.record([new_instance(attributes={"StudyDescription": "x" * 4000}) for _ in range(10)])

    with database.read() as connection:
        connection.execute(text("SELECT * FROM instances")).all()
        write(15)
        assert log.stat().st_size > 400_000
    write(5)
    assert log.stat().st_size <= 400_000
    assert len(index.instances("1.1")) == 200
    database.close()


def test_full_log_is_used_from_its_start_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("db.database.CHECKPOINT_BYTES", 100_000)
    database = migrated(tmp_path / "test.db")
    log = tmp_path / "test.db-wal"
    full = []
    for _ in range(60):
        Index(database).record([new_instance()])
        full.append(filled_beyond(log, 50_000))
    assert log.stat().st_size < 250_000
    assert [before for before, after in pairwise(full) if before and not after], "it was never begun anew"
    assert not filled_beyond(tmp_path / "none", 0)
    database.close()


def test_log_has_its_length_from_the_first_transaction_and_zeros_in_it_are_no_rows(tmp_path: Path) -> None:
    database = migrated(tmp_path / "test.db")
    log = tmp_path / "test.db-wal"
    Index(database).record([new_instance()])
    length = log.stat().st_size
    assert length > CHECKPOINT_BYTES
    assert not filled_beyond(log, CHECKPOINT_BYTES)
    for _ in range(20):
        Index(database).record([new_instance()])
    assert log.stat().st_size == length
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    for name in ("test.db", "test.db-wal"):
        (crashed / name).write_bytes((tmp_path / name).read_bytes())
    database.close()
    again = Database.open(DatabaseSettings(url=f"sqlite:///{crashed / 'test.db'}"))
    assert len(Index(again).instances("1.1")) == 21
    again.close()


def test_checkpoint_that_fails_does_not_undo_what_was_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    database = migrated(tmp_path / "test.db")
    with monkeypatch.context() as patch:
        patch.setattr("db.database.CHECKPOINT_BYTES", 0)
        patch.setattr("db.database.CHECKPOINT", "PRAGMA wal_checkpoint(")
        assert Index(database).record([new_instance()]) == [StoreVerdict.STORED]
    assert "checkpoint_failed" in caplog.text
    assert len(Index(database).instances("1.1")) == 1
    database.close()


def test_closed_databases_leave_no_file_handles(url: str) -> None:
    def opened_and_closed() -> int:
        database = Database.open(DatabaseSettings(url=url))
        database.upgrade()
        database.close()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = opened_and_closed()
    assert max(opened_and_closed() for _ in range(5)) <= before


def test_another_process_that_writes_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    database = migrated(tmp_path / "test.db", wait_seconds=0.1)
    assert not database.contended()
    monkeypatch.setattr("db.database.CONTENDED_SECONDS", 60.0)
    other = os.open(tmp_path / "test.db.lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(DatabaseUnavailable), database.write():
            pass
    finally:
        os.close(other)
    assert database.contended()
    database.close()


def test_threads_that_read_at_once_leave_one_idle_connection_to_postgres(postgres: Postgres) -> None:
    database = Database.open(DatabaseSettings(url=postgres.create("idle")))
    together = threading.Barrier(4)

    def read() -> None:
        with database.read() as connection:
            connection.execute(text("SELECT 1"))
            together.wait(10)

    def connections() -> int:
        with database.read() as connection:
            mine = text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()")
            return int(connection.execute(mine).scalar_one())

    with ThreadPoolExecutor(4) as threads:
        for reading in [threads.submit(read) for _ in range(4)]:
            reading.result(10)
    wait_until(lambda: connections() == 1, 10, "one connection is left")
    database.close()
