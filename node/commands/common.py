"""What several commands use: options, the configuration, the database and JSON output."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from db.database import Database
from db.queue import Queue
from db.records import Job
from inference.settings import EngineSettings
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.errors import CommandError, UsageError

ConfigOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", help="Configuration file; else OVERREAD_CONFIG, else ./config.toml."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]

console = Console(highlight=False, soft_wrap=True)
errors = Console(stderr=True, highlight=False)


@contextmanager
def opened_database(configuration: Configuration) -> Iterator[Database]:
    """Open the node's database.

    Raises:
        CommandError: it does not exist, or its schema is not that of this version.
    """
    settings = configuration.database_settings()
    if settings.url.startswith("sqlite:///") and not Path(settings.url.removeprefix("sqlite:///")).exists():
        raise CommandError("There is no database yet: start the node once with `overread serve`.")
    database = Database.open(settings)
    try:
        status = database.schema_status()
        if status != "current":
            raise CommandError(
                f"The database schema is {status}: "
                + ("update overread." if status == "newer" else "start `overread serve` once to upgrade it.")
            )
        yield database
    finally:
        database.close()


def load_configuration(file: Path | None) -> Configuration:
    """Read and check the configuration.

    Raises:
        ConfigurationError: it has faults.
    """
    return load(file)


def engine_settings(configuration: Configuration, name: str) -> EngineSettings:
    """How to run the engine with this name.

    Raises:
        UsageError: the configuration has no such engine.
    """
    names = [engine.name for engine in configuration.engine]
    if name not in names:
        raise UsageError(
            f"There is no engine {name!r} in {configuration.file}: it has {', '.join(names) or 'none'}."
        )
    return configuration.engine_settings(name)


def job_of_number(database: Database, target: str) -> Job | None:
    """The job with this number, None if ``target`` is a UID.

    Raises:
        CommandError: there is no such job.
    """
    if not target.isdecimal() or len(target) >= 12:
        return None
    job = Queue(database).get(int(target))
    if job is None:
        raise CommandError(f"There is no job {target}: `overread queue` lists them.")
    return job


def print_json(document: Any) -> None:
    """Print one JSON document on standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
