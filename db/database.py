"""Opening the database: durable SQLite with one writer at a time, or Postgres, behind the same two contexts."""

from __future__ import annotations

import fcntl
import logging
import math
import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from db.errors import Contended, DatabaseError, DatabaseUnavailable, OutcomeUnknown, SchemaTooNew
from db.migrations.versioning import SchemaStatus, schema_status, upgrade
from db.wal import extend, filled_beyond

log = logging.getLogger("overread.database")

CHECKPOINT_BYTES = 4 * 1024 * 1024
"""The write-ahead log is brought into the database file when it is filled beyond this."""
CHECKPOINT_AGAIN_SECONDS = 1.0
"""So long a checkpoint is not tried again that a reader was in the way of."""
CHECKPOINT = "PRAGMA wal_checkpoint(RESTART)"
LOG_BYTES = 4 * CHECKPOINT_BYTES
"""A log that grew beyond this, while a long read held up checkpoints, is cut when it is used from its start again."""

SILENCE_SECONDS = 30
"""So long Postgres' machine may not answer at all before its connection counts as broken."""

SHORT_SECONDS = 0.02
"""Most transactions are over within this: so long a waiting writer looks very often, and then less often."""
CONTENDED_SECONDS = 0.1

PARAMETERS = 500
"""So many values in one statement are safe: SQLite takes about a thousand."""

CONTENTION = frozenset({"DeadlockDetected", "SerializationFailure"})
"""Errors of Postgres that a second try cures."""


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """Where the database is. A SQLite path is absolute."""

    url: str
    wait_seconds: float = 5.0
    """How long a caller waits for a lock before DatabaseUnavailable."""


class Database:
    """One process' way to the database. Thread-safe: each context has a connection of its own."""

    def __init__(self, engine: Engine, settings: DatabaseSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writer = (
            _WriteLock(_sqlite_file(settings.url), settings.wait_seconds) if self.is_sqlite else None
        )
        self._extended = False
        self._checkpoint_after = 0.0

    @classmethod
    def open(cls, settings: DatabaseSettings) -> Database:
        """Open a database without touching its schema."""
        if settings.url.startswith("sqlite"):
            engine = create_engine(
                settings.url,
                connect_args={"timeout": settings.wait_seconds, "check_same_thread": False},
                pool_size=16,
                max_overflow=64,
            )
            event.listen(engine, "connect", _configure_sqlite)
            event.listen(engine, "begin", _begin_sqlite)
        else:
            engine = create_engine(
                settings.url,
                # One stays connected: commits come one after the other, and a server has few connections for all.
                pool_size=1,
                max_overflow=39,
                pool_pre_ping=True,
                pool_timeout=settings.wait_seconds,
                connect_args={
                    "connect_timeout": max(2, int(settings.wait_seconds)),
                    # A server that is gone without a word is noticed: by what it leaves unanswered, or when idle.
                    "tcp_user_timeout": 1000 * SILENCE_SECONDS,
                    "keepalives_idle": SILENCE_SECONDS // 3,
                    "keepalives_interval": SILENCE_SECONDS // 3,
                    "keepalives_count": 2,
                    "options": f"-c lock_timeout={int(settings.wait_seconds * 1000)}",
                },
            )
        return cls(engine, settings)

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A consistent view; nothing is written.

        Raises:
            DatabaseUnavailable: the database is locked or away.
        """
        with _translated(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """One transaction, on disk when the context is left. Keep it short: SQLite has one writer at a time.

        Raises:
            DatabaseUnavailable: the database is locked or away; nothing was written.
            OutcomeUnknown: the connection broke during the commit.
        """
        if self._writer is None:
            with _translated(), self.engine.connect() as connection, _committed(connection):
                yield connection
            return
        with self._writer.held():
            with (
                _translated(),
                self.engine.connect().execution_options(overread_write=True) as connection,
                _committed(connection),
            ):
                yield connection
            self._checkpoint()

    def contended(self) -> bool:
        """Whether another process wanted to write at the same time a moment ago; always false for Postgres."""
        return self._writer is not None and time.monotonic() - self._writer.waited_at < CONTENDED_SECONDS

    def _checkpoint(self) -> None:
        """Let a full write-ahead log begin anew, under the write lock: see docs/decisions/0002-sqlite-journal.md.

        The first call of a process gives a new log its length, or leaves it to grow where the disk is full. The
        transaction before is committed, so a failure here is not its own; the next one tries the checkpoint again.
        """
        file = _sqlite_file(self.settings.url)
        log_file = file.with_name(f"{file.name}-wal")
        try:
            if not self._extended:
                self._extended = True
                extend(log_file, CHECKPOINT_BYTES + CHECKPOINT_BYTES // 8)
            if not filled_beyond(log_file, CHECKPOINT_BYTES):
                return
            if time.monotonic() < self._checkpoint_after:
                return
            with _translated(), self.engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                # A long read keeps the log from beginning anew: writers must not wait for that.
                raw.execute("PRAGMA busy_timeout = 0")
                try:
                    # The file keeps its length, so that syncs of what is written over it need not sync its length.
                    (blocked, *_) = raw.execute(CHECKPOINT).fetchone()
                finally:
                    raw.execute(f"PRAGMA busy_timeout = {int(1000 * self.settings.wait_seconds)}")
            if blocked:
                self._checkpoint_after = time.monotonic() + CHECKPOINT_AGAIN_SECONDS
        except (sqlite3.Error, DatabaseError, OSError) as error:
            log.error("checkpoint_failed error=%s", error)

    def schema_status(self) -> SchemaStatus:
        """Whether the schema is that of this version."""
        with _translated():
            return schema_status(self.engine)

    def upgrade(self) -> None:
        """Bring an empty or old schema to this version.

        Raises:
            SchemaTooNew: the database was written by a newer version.
        """
        if self._writer is None:
            self._upgrade()
            return
        with self._writer.held():
            self._upgrade()

    def _upgrade(self) -> None:
        with _translated():
            if schema_status(self.engine) == "newer":
                raise SchemaTooNew(
                    "The database was written by a newer overread: update overread or use another database."
                )
            upgrade(self.engine)

    def close(self) -> None:
        """Close all connections; SQLite's last one empties the write-ahead log, hence the lock."""
        if self._writer is None:
            self.engine.dispose()
            return
        with self._writer.held():
            self.engine.dispose()
        self._writer.close()


class _WriteLock:
    """At most one writer over all threads and processes, by a file lock beside the database.

    SQLite's own lock makes waiters sleep and lets them starve; and its WAL-reset bug needs a writer and a
    checkpoint at the same time, which this lock rules out.
    """

    def __init__(self, database: Path, wait_seconds: float) -> None:
        self.path = database.with_name(database.name + ".lock")
        self.wait_seconds = wait_seconds
        self.waited_at = -math.inf
        """When another process last had the lock, on the clock of ``time.monotonic``."""
        self._thread_lock = threading.Lock()
        self._file: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        deadline = time.monotonic() + self.wait_seconds
        if not self._thread_lock.acquire(timeout=self.wait_seconds):
            raise DatabaseUnavailable("The database is busy: another writer of this process holds it.")
        try:
            if self._file is None:
                try:
                    self._file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
                except OSError as error:
                    raise DatabaseUnavailable(f"{self.path} cannot be opened: {error.strerror}.") from error
            self._lock_file(self._file, deadline)
            try:
                yield
            finally:
                fcntl.flock(self._file, fcntl.LOCK_UN)
        finally:
            self._thread_lock.release()

    def close(self) -> None:
        """Give the file handle back; the next use opens another."""
        with self._thread_lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _lock_file(self, file: int, deadline: float) -> None:
        patient_from = time.monotonic() + SHORT_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self.waited_at = time.monotonic()
                if self.waited_at >= deadline:
                    raise DatabaseUnavailable("The database is busy: another process holds it.") from None
                time.sleep(0.00005 if self.waited_at < patient_from else 0.005)


def _configure_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "wal_autocheckpoint=0",
        f"journal_size_limit={LOG_BYTES}",
        "foreign_keys=ON",
    ):
        connection.execute(f"PRAGMA {pragma}")


def _begin_sqlite(connection: Connection) -> None:
    write = connection.get_execution_options().get("overread_write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _sqlite_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


@contextmanager
def _committed(connection: Connection) -> Iterator[None]:
    """A transaction whose commit may fail in a way that leaves open whether it counts."""
    transaction = connection.begin()
    try:
        yield
    except BaseException:
        transaction.rollback()
        raise
    try:
        transaction.commit()
    except OperationalError as error:
        raise OutcomeUnknown("The database broke off while it committed.") from error


@contextmanager
def _translated() -> Iterator[None]:
    """The driver's errors as ours; never with the statement's parameters, which hold patient data."""
    try:
        yield
    except PoolTimeoutError:
        raise DatabaseUnavailable("The database is busy: no connection became free.") from None
    except DBAPIError as error:
        if isinstance(error, IntegrityError) or type(error.orig).__name__ in CONTENTION:
            raise Contended(
                "The database did not take the rows: another process wrote them at once."
            ) from None
        if isinstance(error, OperationalError) or error.connection_invalidated:
            first_line = (str(error.orig).splitlines() or ["no reason given"])[0]
            raise DatabaseUnavailable(f"The database does not answer: {first_line}") from None
        if type(error.orig) is sqlite3.DatabaseError:
            raise DatabaseUnavailable(
                f"The file of the database cannot be used ({error.orig}): "
                "put it back from a copy, or name another one as database.url."
            ) from None
        raise


def now() -> datetime:
    """The present time."""
    return datetime.now(UTC)


def time_text(moment: datetime) -> str:
    """A time as the tables hold it: UTC, fixed width, so that text order is time order."""
    if moment.tzinfo is None:
        raise ValueError("times need a time zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read_time(text: str) -> datetime:
    """A time that the tables hold."""
    return datetime.fromisoformat(text)


def read_optional_time(text: str | None) -> datetime | None:
    """A time that the tables may hold."""
    return None if text is None else read_time(text)
