"""``overread queue`` lists jobs; ``overread show`` prints everything about a study, a series or a job."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from db.index import Index
from db.queue import Queue
from db.states import DeliveryState, JobState
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
from node.views.documents import Views

HEADINGS = ("id", "created", "state", "engine", "study", "tries", "delivered")
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
    delivery: Annotated[
        DeliveryState | None, typer.Option(help="Only jobs with a delivery in this state.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many, newest first.")] = 50,
    json: JsonOption = False,
) -> None:
    """List jobs, newest first."""
    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        views = Views(database)
        found = Queue(database).jobs(state=state, delivery=delivery, limit=limit + 1)
        jobs = [views.job(job) for job in found[:limit]]
    if json:
        print_json(jobs)
        return
    if not jobs:
        filters = [f"in state {state}"] * bool(state) + [f"with a delivery that is {delivery}"] * bool(
            delivery
        )
        console.print(f"No jobs {' and '.join(filters)}".rstrip() + ".")
        return
    rows = [_cells(job) for job in jobs]
    widths = [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]
    console.print(_line(HEADINGS, widths), style="bold")
    for job, cells in zip(jobs, rows, strict=True):
        console.print(_line(cells, widths), style=STYLES.get(job["state"]), markup=False)
        if job["reason"]:
            console.print(f"  {job['reason']}", style="dim", markup=False)
    if len(found) > limit:
        console.print(f"There are more: --limit {2 * limit} shows some of them.", style="dim")


def _cells(job: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a job. Its reason gets a line of its own, so that a narrow terminal cuts neither."""
    return (
        str(job["id"]),
        job["created_at"][5:16].replace("T", " "),
        job["state"],
        job["engine"] or "-",
        "…" + job["study_instance_uid"][-8:],
        str(job["attempts"]),
        ", ".join(f"{d['destination']}: {d['state']}" for d in job["deliveries"]) or "-",
    )


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)).rstrip()


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


def _escaped(text: str | None) -> str:
    """Text without meaning to Rich's markup."""
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
        console.print(f"[bold yellow]Quarantined[/] {entry['sop_instance_uid']}: {_escaped(entry['reason'])}")
        console.print(f"  kept as {entry['file']}", markup=False)
    _print_history(study["history"])
    for job in study["jobs"]:
        _print_job(job)


def _print_history(entries: Sequence[dict[str, Any]]) -> None:
    for entry in entries:
        was = f"{entry['from']} -> " if entry["from"] else ""
        console.print(
            f"  [dim]{entry['at']}[/] {was}{entry['to']} by {entry['who']}: {_escaped(entry['why'])}"
        )


def _print_job(job: dict[str, Any]) -> None:
    style = STYLES.get(job["state"], "bold")
    console.print(f"[bold]Job {job['id']}[/] {job['engine'] or 'no engine'} [{style}]{job['state']}[/]")
    console.print(f"  study {job['study_instance_uid']}")
    console.print(
        f"  series {job['series_instance_uid']}, revision {job['revision']}, {len(job['inputs'])} inputs"
    )
    if job["reason"]:
        console.print(f"  reason: {_escaped(job['reason'])}")
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
    _print_history(job["history"])
    for entry in job["delivery_history"]:
        console.print(
            f"  [dim]{entry['at']}[/] to {entry['destination']}: {entry['to']} by {entry['who']}: "
            f"{_escaped(entry['why'])}"
        )
