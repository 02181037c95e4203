"""``overread queue``, ``show`` and ``retry`` as an administrator sees them."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner, Result

from db.database import Database
from db.outbox import Outbox
from db.queue import Queue
from db.records import DeliveryFailed, Done, Failed
from node.cli import application
from node.configuration.configuration import Configuration
from node.errors import UsageError
from tests.db.conftest import new_result, queued_job

REASON = "the inputs cannot be read: " + "a long reason that no narrow terminal has room for " * 3


def run(configuration: Configuration, *arguments: str) -> Result:
    # An application of one command would have no subcommands.
    app = application(["queue", "show", "retry"])
    return CliRunner(env={"COLUMNS": "60"}).invoke(app, [*arguments, "-c", str(configuration.file)])


@pytest.fixture
def jobs(database: Database) -> tuple[int, int]:
    """A job that failed, and one whose delivery did; their numbers."""
    broken, undelivered = (queued_job(database, study) for study in ("1.2.1", "1.2.2"))
    first, second = Queue(database).claim("w", ["cxr"], 2, 60)
    Queue(database).settle(first, Failed(reason=REASON))
    Queue(database).settle(second, Done(model_version="m", results=(new_result("1.2.2"),)))
    (delivery,) = Outbox(database).claim("pacs", "courier", 1, 60)
    Outbox(database).settle(
        [(delivery, DeliveryFailed(reason="called AE title not recognized", status=None))]
    )
    return broken.id, undelivered.id


def test_nothing_is_cut_on_a_narrow_terminal(configuration: Configuration, jobs: tuple[int, int]) -> None:
    lines = run(configuration, "queue").stdout.splitlines()
    assert lines[0].split() == ["id", "created", "state", "engine", "study", "tries", "delivered"]
    assert lines[1].startswith(str(jobs[1])) and lines[1].endswith("pacs: failed")
    assert lines[2].split()[0] == str(jobs[0])
    assert lines[3].strip() == REASON.strip()
    assert "There are more" in run(configuration, "queue", "--limit", "1").stdout


def test_jobs_with_failed_deliveries_are_listed_and_told(
    configuration: Configuration, jobs: tuple[int, int]
) -> None:
    listed = json.loads(run(configuration, "queue", "--delivery", "failed", "--json").stdout)
    assert [job["id"] for job in listed] == [jobs[1]]
    assert run(configuration, "queue", "--delivery", "sent").stdout.startswith(
        "No jobs with a delivery that is sent."
    )
    shown = run(configuration, "show", str(jobs[1])).stdout
    assert "study 1.2.2" in shown
    assert "to pacs: failed by courier: called AE title not recognized" in shown


def test_all_failed_deliveries_are_retried_at_once(
    configuration: Configuration, database: Database, jobs: tuple[int, int]
) -> None:
    assert run(configuration, "retry", "--deliveries", "--destination", "pacs").stdout == (
        "1 deliveries are due now\n"
    )
    assert Outbox(database).counts() == {("pacs", "pending"): 1}
    assert run(configuration, "retry").exit_code == 2
    assert run(configuration, "retry", "1", "--deliveries").exit_code == 2
    refused = run(configuration, "retry", "--deliveries", "--destination", "pcas").exception
    assert isinstance(refused, UsageError) and "pacs" in str(refused)
