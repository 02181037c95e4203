"""Access to the database: SQLite with one writer at a time, or Postgres, both by ``read()`` and ``write()``."""

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
"""A write-ahead log that holds more than this is copied into the database file."""
CHECKPOINT_RETRY_SECONDS = 1.0
"""Seconds before a checkpoint is retried that a reader blocked."""
CHECKPOINT = "PRAGMA wal_checkpoint(RESTART)"
LOG_BYTES = 4 * CHECKPOINT_BYTES
"""A log that grew beyond this during a long read is cut to this length at the next restart from its beginning."""

SILENCE_SECONDS = 30
"""Seconds without any answer from the Postgres machine after which its connection counts as broken."""

EAGER_SECONDS = 0.02
"""Most transactions end within this time. A waiting writer polls the lock very often for so long, then less often."""
CONTENDED_SECONDS = 0.1
"""``Database.contended`` is true for this long after another process held the lock."""

MAX_PARAMETERS = 500
"""Values in one statement: SQLite takes at least 999 (https://www.sqlite.org/limits.html)."""

RETRYABLE_ERRORS = frozenset({"DeadlockDetected", "SerializationFailure"})
"""The Postgres errors after which a second try succeeds."""


@dataclass(frozen=True, kw_only=True)
class DatabaseSettings:
    """Where the database is, as a URL of SQLAlchemy. A SQLite path is absolute."""

    url: str
    wait_seconds: float = 5.0
    """How long a caller waits for a lock before it gets DatabaseUnavailable."""


class Database:
    """One process's access to the database. Thread-safe: each context has its own connection."""

    def __init__(self, engine: Engine, settings: DatabaseSettings) -> None:
        self.engine = engine
        self.settings = settings
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._write_lock = (
            _WriteLock(_sqlite_file(settings.url), settings.wait_seconds) if self.is_sqlite else None
        )
        self._log_lengthened = False
        self._next_checkpoint_at = 0.0

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
                # One stays connected: commits come one by one, and a server has few connections for all processes.
                pool_size=1,
                max_overflow=39,
                pool_pre_ping=True,
                pool_timeout=settings.wait_seconds,
                connect_args={
                    "connect_timeout": max(2, int(settings.wait_seconds)),
                    # A server that vanished is noticed by its missing answers, or by keepalives when idle.
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
        """A transaction that only reads, with a consistent view.

        Raises:
            DatabaseUnavailable: the database is locked or does not answer.
        """
        with _translated_errors(), self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """A transaction that is on disk when the context ends. Keep it short: SQLite has one writer at a time.

        Raises:
            DatabaseUnavailable: the database is locked or does not answer; nothing was written.
            Contended: another process wrote the same rows; nothing was written.
            OutcomeUnknown: the connection broke during the commit; it may have been written.
        """
        if self._write_lock is None:
            with _translated_errors(), self.engine.connect() as connection, _transaction(connection):
                yield connection
            return
        with self._write_lock.held():
            with (
                _translated_errors(),
                self.engine.connect().execution_options(overread_write=True) as connection,
                _transaction(connection),
            ):
                yield connection
            self._checkpoint()

    def contended(self) -> bool:
        """Whether this process has just had to wait for another one to write. Always False for Postgres."""
        return (
            self._write_lock is not None and time.monotonic() - self._write_lock.waited_at < CONTENDED_SECONDS
        )

    def _checkpoint(self) -> None:
        """Copy a full write-ahead log into the database and restart it. Needs the write lock.

        The first call of a process also lengthens a new log. The caller's transaction is committed already, so a
        failure is only logged, and the next transaction tries again. See docs/decisions/0002-sqlite-journal.md.
        """
        file = _sqlite_file(self.settings.url)
        log_file = file.with_name(f"{file.name}-wal")
        try:
            if not self._log_lengthened:
                self._log_lengthened = True
                extend(log_file, CHECKPOINT_BYTES + CHECKPOINT_BYTES // 8)
            if not filled_beyond(log_file, CHECKPOINT_BYTES):
                return
            if time.monotonic() < self._next_checkpoint_at:
                return
            with _translated_errors(), self.engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                # A long read prevents the restart; writers must not wait for it.
                raw.execute("PRAGMA busy_timeout = 0")
                try:
                    # RESTART keeps the file's length, so that later commits need not sync a new one.
                    (blocked, *_) = raw.execute(CHECKPOINT).fetchone()
                finally:
                    raw.execute(f"PRAGMA busy_timeout = {int(1000 * self.settings.wait_seconds)}")
            if blocked:
                self._next_checkpoint_at = time.monotonic() + CHECKPOINT_RETRY_SECONDS
        except (sqlite3.Error, DatabaseError, OSError) as error:
            log.error("checkpoint_failed error=%s", error)

    def schema_status(self) -> SchemaStatus:
        """How the schema compares with this version's."""
        with _translated_errors():
            return schema_status(self.engine)

    def upgrade(self) -> None:
        """Create the schema, or migrate an old one to this version.

        Raises:
            SchemaTooNew: the database was written by a newer version.
        """
        if self._write_lock is None:
            self._upgrade()
            return
        with self._write_lock.held():
            self._upgrade()

    def _upgrade(self) -> None:
        with _translated_errors():
            if schema_status(self.engine) == "newer":
                raise SchemaTooNew(
                    "The database was written by a newer overread: update overread or use another database."
                )
            upgrade(self.engine)

    def close(self) -> None:
        """Close all connections. SQLite's last one also checkpoints the log, which needs the write lock."""
        if self._write_lock is None:
            self.engine.dispose()
            return
        with self._write_lock.held():
            self.engine.dispose()
        self._write_lock.close()


class _WriteLock:
    """Lets one writer in at a time, over all threads and processes, by a file lock beside the database.

    With SQLite's own lock, waiting writers sleep long and may starve. This lock also prevents SQLite's WAL-reset bug,
    which needs a writer and a checkpoint at the same moment.
    """

    def __init__(self, database: Path, wait_seconds: float) -> None:
        self.path = database.with_name(database.name + ".lock")
        self.wait_seconds = wait_seconds
        self.waited_at = -math.inf
        """When another process was last seen to hold the lock, by ``time.monotonic``."""
        self._thread_lock = threading.Lock()
        self._file: int | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the lock.

        Raises:
            DatabaseUnavailable: another writer kept it for longer than ``wait_seconds``.
        """
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
        """Close the lock file; the next use opens it again."""
        with self._thread_lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None

    def _lock_file(self, file: int, deadline: float) -> None:
        eager_until = time.monotonic() + EAGER_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                self.waited_at = time.monotonic()
                if self.waited_at >= deadline:
                    raise DatabaseUnavailable("The database is busy: another process holds it.") from None
                time.sleep(0.00005 if self.waited_at < eager_until else 0.005)


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
def _transaction(connection: Connection) -> Iterator[None]:
    """A transaction; OutcomeUnknown if it is not known whether its commit succeeded."""
    transaction = connection.begin()
    try:
        yield
    except BaseException:
        transaction.rollback()
        raise
    try:
        transaction.commit()
    except OperationalError as error:
        raise OutcomeUnknown("The connection to the database broke during the commit.") from error


@contextmanager
def _translated_errors() -> Iterator[None]:
    """Raise the driver's errors as ours, without the statement's parameters, which hold patient data."""
    try:
        yield
    except PoolTimeoutError:
        raise DatabaseUnavailable("The database is busy: no connection became free.") from None
    except DBAPIError as error:
        if isinstance(error, IntegrityError) or type(error.orig).__name__ in RETRYABLE_ERRORS:
            raise Contended(
                "The rows were not written: another process wrote the same ones at the same moment."
            ) from None
        if isinstance(error, OperationalError) or error.connection_invalidated:
            first_line = (str(error.orig).splitlines() or ["no reason given"])[0]
            raise DatabaseUnavailable(f"The database does not answer: {first_line}") from None
        if type(error.orig) is sqlite3.DatabaseError:
            raise DatabaseUnavailable(
                f"The file of the database cannot be used ({error.orig}): "
                "restore it from a copy, or set database.url to another one."
            ) from None
        raise


def now() -> datetime:
    """The present time in UTC."""
    return datetime.now(UTC)


def time_text(moment: datetime) -> str:
    """A time as the tables store it: UTC, fixed width, so that text order is time order.

    Raises:
        ValueError: ``moment`` has no time zone.
    """
    if moment.tzinfo is None:
        raise ValueError("times need a time zone")
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def read_time(text: str) -> datetime:
    """The inverse of ``time_text``."""
    return datetime.fromisoformat(text)


def read_optional_time(text: str | None) -> datetime | None:
    """As ``read_time``, None for None."""
    return None if text is None else read_time(text)
