"""Cuts of power: the writes and syncs of real processes are recorded, and replayed with a cut at each point."""

from __future__ import annotations

import hashlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from db.database import Database
from db.index import Index
from db.records import StoreVerdict
from handlers.spool.files import reconcile
from node.commands.serve import prepare
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.processes.process import make_folders
from tests.db.conftest import new_instance
from tests.peers.waiting import answers, free_port, wait_until
from tests.power.disk import Disk
from tests.power.load import Load, Sent, mixed_load
from tests.power.replay import Cuts, sandbox
from tests.power.results_maker import OBJECTS
from tests.power.trace import Recording, Removed, Said, SyncEnded, Written

LOG = "overread.db-wal"
ROOT = Path(__file__).resolve().parents[3]
SEED = 20261122
EVERY = pytest.mark.parametrize(
    "every", [7, pytest.param(1, marks=pytest.mark.slow)], ids=["each 7th point", "each point"]
)
VERSION = max(path.name[:4] for path in (ROOT / "db" / "migrations" / "versions").glob("[0-9]*.py"))
EARLY_CHECKPOINTS = """\
import db.database
db.database.CHECKPOINT_BYTES = 128 * 1024
"""
CONFIGURATION = """\
[node]
host = "127.0.0.1"
port = {port}
data_dir = "{data}"

[database]
url = "sqlite:///{data}/overread.db"

[spool]
reserve = "1KB"
"""


@pytest.fixture
def data() -> Iterator[Path]:
    """A node's data folder, whose states are made anew after each cut."""
    with sandbox() as folder:
        yield folder


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> None:
    """Hundreds of starts do not tell what they cleared up."""
    caplog.set_level(logging.ERROR, "overread.spool")


def configure(folder: Path, data: Path, port: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    data.mkdir(exist_ok=True)
    file = folder / "config.toml"
    file.write_text(CONFIGURATION.format(port=port, data=data))
    return file


def environment(folder: Path) -> dict[str, str]:
    """For a recorded process, which checkpoints SQLite's log often."""
    (folder / "sitecustomize.py").write_text(EARLY_CHECKPOINTS)
    return {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "PYTHONDONTWRITEBYTECODE": "1"}


def record_receiver(folder: Path, load: Load) -> tuple[Disk, Recording]:
    """Run a receiver from an empty folder through a load to its end in good order."""
    port, data = free_port(), folder / "var"
    file = configure(folder, data, port)
    disk = Disk(data)
    command: list[str | Path] = [sys.executable, "-m", "node.cli", "serve", "--role", "receiver", "-c", file]
    recording = Recording(command, data, folder, environment(folder))
    try:
        wait_until(lambda: answers(port) or not recording.running(), 60, "the receiver listens")
        assert recording.running(), recording.log.read_text()
        load.send(port)
    finally:
        recording.stop()
    return disk, recording


def report(cuts: Cuts) -> None:
    print(
        f"{len(cuts.operations)} operations, cuts {cuts.count}, {checkpoints(cuts)} checkpoints, seed {cuts.seed}"
    )


def rounds(cuts: Cuts) -> int:
    """How often SQLite's log was written from its start while it had its length already."""
    used = count = 0
    for op in cuts.operations:
        if isinstance(op, Removed) and op.path == LOG:
            used = 0
        elif isinstance(op, Written) and op.path == LOG:
            count += op.offset == 0 and used > 1
            used += 1
    return count


def checkpoints(cuts: Cuts) -> int:
    """How often the database file itself was synced."""
    return sum(isinstance(op, SyncEnded) and op.path == "overread.db" for op in cuts.operations)


class Node:
    """A node that starts from what a cut left."""

    def __init__(self, configuration: Configuration) -> None:
        self.configuration = configuration

    def start(self) -> Database:
        """As ``overread serve`` does; the database, found in order."""
        database = Database.open(self.configuration.database_settings())
        if self.version(database) == VERSION:
            # What ``prepare`` does then, without the time that looking for migrations takes.
            make_folders(self.configuration)
            reconcile(self.configuration.spool_dir, database)
        else:
            database.close()
            prepare(self.configuration, with_spool=True)
            assert self.version(database) == VERSION
        assert self.select(database, "PRAGMA integrity_check") == [("ok",)]
        return database

    @staticmethod
    def select(database: Database, statement: str) -> list[Any]:
        with database.read() as connection:
            return list(map(tuple, connection.exec_driver_sql(statement)))

    def version(self, database: Database) -> str | None:
        """The version of the schema; None where there is none yet."""
        if not self.select(database, "SELECT 1 FROM sqlite_master WHERE name = 'alembic_version'"):
            return None
        return next(
            (text for (text,) in self.select(database, "SELECT version_num FROM alembic_version")), None
        )

    def rows(self, database: Database, table: str) -> list[tuple[str, str, str]]:
        """UID, path and digest of what the database has."""
        return self.select(database, f"SELECT sop_instance_uid, path, sha256 FROM {table}")

    def still_takes(self, database: Database) -> None:
        """Something new can be recorded, and is there."""
        new = new_instance("8.8", "8.8.8", sop_instance_uid="8.8.8.8")
        assert Index(database).record([new]) == [StoreVerdict.STORED]
        assert Index(database).find_instance("8.8.8.8") is not None


@cache
def dataset_digest(file: bytes) -> str:
    """The digest of what follows the file meta information (PS3.10 section 7.1)."""
    start = 144 + int.from_bytes(file[140:144], "little")
    assert file[128:132] == b"DICM"
    return hashlib.sha256(file[start:]).hexdigest()


@EVERY
def test_acknowledged_instances_survive_a_cut(tmp_path: Path, data: Path, quiet: None, every: int) -> None:
    load_ = mixed_load()
    disk, recording = record_receiver(tmp_path / "recorded", load_)
    node = Node(load(configure(tmp_path / "replayed", data)))
    acknowledged: list[Sent] = []

    def said(words: Said) -> bool:
        heard = load_.acknowledged_by(words)
        acknowledged.extend(heard)
        return bool(heard)

    def check() -> None:
        database = node.start()
        try:
            indexed, quarantined = node.rows(database, "instances"), node.rows(database, "quarantine")
            for uid, path, digest in indexed + quarantined:
                assert dataset_digest((data / path).read_bytes()) == digest, (uid, path)
            known = {(uid, digest) for uid, _, digest in indexed + quarantined}
            for item in acknowledged:
                assert (item.uid, hashlib.sha256(item.data).hexdigest()) in known, item.uid
            assert {item.uid for item in acknowledged} <= {uid for uid, _, _ in indexed}
            node.still_takes(database)
        finally:
            database.close()

    cuts = Cuts(recording.operations(), disk, SEED, every)
    assert rounds(cuts) >= 2
    cuts.replay(data, said, check)
    assert len(acknowledged) == load_.count
    report(cuts)


def job_numbers(said: Said, found: set[int]) -> bool:
    """Take up the jobs that a program says are committed."""
    if said.port == 0:
        found |= {int(line) for line in said.data.split()}
    return said.port == 0


@EVERY
def test_committed_results_have_their_files_after_a_cut(
    tmp_path: Path, data: Path, quiet: None, every: int
) -> None:
    folder, studies = tmp_path / "recorded", 4
    file = configure(folder, folder / "var")
    prepare(load(file), with_spool=True)
    disk = Disk(folder / "var")
    command: list[str | Path] = [sys.executable, "-m", "tests.power.results_maker", file, str(studies)]
    recording = Recording(command, folder / "var", folder, environment(folder))
    assert recording.wait(120) == 0, recording.log.read_text()
    node = Node(load(configure(tmp_path / "replayed", data)))
    committed: set[int] = set()

    def check() -> None:
        database = node.start()
        try:
            rows = node.rows(database, "results")
            for uid, path, digest in rows:
                assert hashlib.sha256((data / path).read_bytes()).hexdigest() == digest, (uid, path)
            done = {
                number for (number,) in node.select(database, "SELECT id FROM jobs WHERE state = 'succeeded'")
            }
            assert committed <= done
            deliveries = node.select(database, DELIVERIES)
            assert len(rows) == len(done) * OBJECTS
            assert deliveries == [(job, name, OBJECTS) for job in sorted(done) for name in ("pacs", "viewer")]
            node.still_takes(database)
        finally:
            database.close()

    cuts = Cuts(recording.operations(), disk, SEED, every)
    cuts.replay(data, lambda words: job_numbers(words, committed), check)
    assert len(committed) == studies
    report(cuts)


DELIVERIES = """\
SELECT deliveries.job_id, destination, COUNT(*) FROM deliveries JOIN results ON results.id = result_id
GROUP BY 1, 2 ORDER BY 1, 2
"""
RECONCILE = """\
import sys
from pathlib import Path
from node.commands.serve import prepare
from node.configuration.loading import load
prepare(load(Path(sys.argv[1])), with_spool=True)
"""


@EVERY
def test_start_up_check_loses_no_orphan_at_a_cut(tmp_path: Path, data: Path, quiet: None, every: int) -> None:
    folder = tmp_path / "recorded"
    file = configure(folder, folder / "var")
    prepare(load(file), with_spool=True)
    orphans = {f"{n}.dcm": bytes(128) + b"DICM" + f"orphan {n}".encode() * 200 for n in range(4)}
    for n, (name, content) in enumerate(orphans.items()):
        (folder / "var" / "spool" / f"{n % 3:02x}" / name).write_bytes(content)
        (folder / "var" / "spool" / f"{n:02x}" / f"half {n}.dcm").write_bytes(bytes(500))
        (folder / "var" / "spool" / f"{n:02x}" / f"empty {n}.dcm").touch()
    disk = Disk(folder / "var")
    command: list[str | Path] = [sys.executable, "-c", RECONCILE, file]
    recording = Recording(command, folder / "var", folder, environment(folder))
    assert recording.wait() == 0, recording.log.read_text()
    node = Node(load(configure(tmp_path / "replayed", data)))

    def check() -> None:
        node.start().close()
        assert {path.name: path.read_bytes() for path in (data / "orphans").iterdir()} == orphans
        assert [path for path in (data / "spool").rglob("*") if path.is_file()] == []

    cuts = Cuts(recording.operations(), disk, SEED, every)
    cuts.replay(data, lambda _: False, check)
    report(cuts)
