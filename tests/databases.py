"""Databases with the schema of this version: migrated once in a process, then copied."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from db.database import Database, DatabaseSettings


def migrated(path: Path, wait_seconds: float = DatabaseSettings.wait_seconds) -> Database:
    """The SQLite database in that file, made where there is none, and open."""
    if not path.exists():
        path.write_bytes(_model())
    return Database.open(DatabaseSettings(url=f"sqlite:///{path}", wait_seconds=wait_seconds))


@functools.cache
def _model() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.db"
        database = Database.open(DatabaseSettings(url=f"sqlite:///{path}"))
        database.upgrade()
        database.close()
        return path.read_bytes()
