"""``overread queue`` and ``overread show``: what is waiting, running and done, and the whole story of one study."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import typer
from rich.table import Table

from db.index import Index
from db.queue import Queue
from db.states import JobState
from node.commands.common import (
    ConfigOption,
    JsonOption,
    console,
    job_of_number,
    load_configuration,
    opened_database,
    print_json,
)
from node.errors import CommandError
from node.views import Views

STYLES = {
    "succeeded": "green",
    "failed": "red",
    "running": "cyan",
    "waiting": "yellow",
    "skipped": "dim",
    "cancelled": "dim",
    "superseded": "dim",
}


def queue(
    config: ConfigOption = None,
    state: Annotated[JobState | None, typer.Option(help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        views = Views(database)
        jobs = [views.job(job) for job in Queue(database).jobs(state=state, limit=limit)]
    if json:
        print_json(jobs)
        return
    if not jobs:
        console.print("No jobs" + (f" in state {state}." if state else "."))
        return
    table = Table(box=None, pad_edge=False, expand=True)
    for heading in ("id", "created", "state", "engine", "study", "tries", "delivered"):
        table.add_column(heading, no_wrap=True)
    table.add_column("reason", no_wrap=True, overflow="ellipsis", ratio=1)
    for job in jobs:
        style = STYLES.get(job["state"], "")
        table.add_row(
            str(job["id"]),
            job["created_at"][5:16].replace("T", " "),
            f"[{style}]{job['state']}[/]" if style else job["state"],
            job["engine"] or "-",
            "…" + job["study_instance_uid"][-8:],
            str(job["attempts"]),
            ", ".join(f"{d['destination']}: {d['state']}" for d in job["deliveries"]) or "-",
            _plain(job["reason"]),
        )
    console.print(table)


def show(
    identifier: Annotated[
        str, typer.Argument(metavar="UID-or-ID", help="A study or series instance UID, or a job's number.")
    ],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show one study, series or job: inputs, jobs, results, deliveries, history and reasons."""
    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        views = Views(database)
        if job := job_of_number(database, identifier):
            document: dict[str, Any] = views.job_in_full(job)
            print_document: Callable[[dict[str, Any]], None] = _print_job
        else:
            study_uid = Index(database).series_study(identifier)
            series_uid = identifier if study_uid is not None else None
            found = views.study(study_uid or identifier, series_uid)
            if found is None:
                raise CommandError(f"No study or series {identifier} was received.")
            document, print_document = found, _print_study
    if json:
        print_json(document)
    else:
        print_document(document)


def _plain(text: str | None) -> str:
    return (text or "").replace("[", "\\[")


def _print_study(study: dict[str, Any]) -> None:
    console.print(f"[bold]Study[/] {study['study_instance_uid']}")
    console.print(
        f"  {study['state']}, revision {study['revision']}, last instance {study['last_instance_at']}"
    )
    for series in study["series"]:
        description = series["description"] or ""
        console.print(f"[bold]Series[/] {series['series_instance_uid']}")
        console.print(
            f"  {series['modality']} {len(series['instances'])} instances {description}", markup=False
        )
    for entry in study["quarantined"]:
        console.print(f"[bold yellow]Quarantined[/] {entry['sop_instance_uid']}: {_plain(entry['reason'])}")
        console.print(f"  kept as {entry['file']}", markup=False)
    for job in study["jobs"]:
        _print_job(job)


def _print_job(job: dict[str, Any]) -> None:
    style = STYLES.get(job["state"], "bold")
    console.print(f"[bold]Job {job['id']}[/] {job['engine'] or 'no engine'} [{style}]{job['state']}[/]")
    console.print(
        f"  series {job['series_instance_uid']}, revision {job['revision']}, {len(job['inputs'])} inputs"
    )
    if job["reason"]:
        console.print(f"  reason: {_plain(job['reason'])}")
    if job["model_version"]:
        console.print(f"  model {job['model_version']}", markup=False)
    if job["review_advised"]:
        console.print("  [yellow]manual review advised[/]")
    for result in job["results"]:
        console.print(f"  {result['kind']}: {result['file']}", markup=False)
    for delivery in job["deliveries"]:
        console.print(
            f"  to {delivery['destination']}: {delivery['state']} after {delivery['attempts']} attempts, "
            f"last status {delivery['last_status'] or 'none'}"
            + (f", {delivery['reason']}" if delivery["reason"] else ""),
            markup=False,
        )
    for entry in job["history"]:
        was = f"{entry['from']} -> " if entry["from"] else ""
        console.print(f"  [dim]{entry['at']}[/] {was}{entry['to']} by {entry['who']}: {_plain(entry['why'])}")
