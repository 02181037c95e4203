"""A Postgres server of its own in a folder."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import psycopg
import pytest
from psycopg.sql import SQL, Identifier

from db.database import Database, DatabaseSettings
from tests.peers.waiting import answers, free_port, wait_until

VERSIONS = Path("/usr/lib/postgresql")
MIGRATED = "migrated"


class Postgres:
    """Runs as the user postgres where the tests run as root; reached over the loopback address."""

    def __init__(self, folder: Path) -> None:
        found = sorted(VERSIONS.glob("*/bin/initdb")) if VERSIONS.exists() else []
        if not found:
            pytest.skip("the system has no Postgres server: tests/install-peers installs it")
        self.programs = found[-1].parent
        self.folder = folder
        self.port = free_port()
        self._migrated = False

    def __enter__(self) -> Postgres:
        self.folder.mkdir(parents=True, exist_ok=True)
        if os.getuid() == 0:
            account = pwd.getpwnam("postgres")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        self._run("initdb", "-D", "data", "-U", "overread", "--auth=trust", "--no-sync", "-E", "UTF8")
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Start and wait until it listens; it does not sync, since its machine never stops in a test."""
        options = f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off"
        self._run("pg_ctl", "-D", "data", "-l", "log", "-o", options, "-w", "start")
        wait_until(lambda: answers(self.port), 20, "Postgres listens")

    def stop(self) -> None:
        """Stop it at once."""
        self._run("pg_ctl", "-D", "data", "-m", "immediate", "-w", "stop")

    def create(self, name: str, template: str = "template1") -> str:
        """A new database, empty or a copy of ``template``; its URL."""
        address = f"host=127.0.0.1 port={self.port} user=overread dbname=postgres"
        with psycopg.connect(address, autocommit=True) as connection:
            statement = SQL("CREATE DATABASE {} TEMPLATE {}")
            connection.execute(statement.format(Identifier(name), Identifier(template)))
        return f"postgresql+psycopg://overread@127.0.0.1:{self.port}/{name}"

    def migrated(self) -> str:
        """The name of a database with the schema of this version, as a template for others; made once."""
        if not self._migrated:
            database = Database.open(DatabaseSettings(url=self.create(MIGRATED)))
            database.upgrade()
            database.close()
            self._migrated = True
        return MIGRATED

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.programs / program), *arguments]
        if os.getuid() == 0:
            self._open_parents()
            command = ["runuser", "-u", "postgres", "--", *command]
        with (self.folder / f"{program}.out").open("ab") as output:
            subprocess.run(command, cwd=self.folder, stdout=output, stderr=output, check=True, timeout=60)

    def _open_parents(self) -> None:
        """Let others pass: pytest closes its folders, the outermost one whenever another run of it starts."""
        root = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT") or tempfile.gettempdir())
        for parent in self.folder.parents:
            if parent.stat().st_uid == 0 and parent.is_relative_to(root) and parent != root:
                parent.chmod(0o755)
