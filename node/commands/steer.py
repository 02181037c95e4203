"""``overread retry``, ``cancel``, ``prioritize`` and ``reprocess``: control jobs and studies by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from db.database import Database
from db.index import Index
from db.outbox import Outbox
from db.plans import Plans
from db.queue import Queue
from db.records import Job
from db.states import JobEvent, JobState, states_before
from db.wakeup import notify
from node.commands.common import ConfigOption, console, job_of_number, load_configuration, opened_database
from node.errors import CommandError, UsageError

TargetArgument = Annotated[str, typer.Argument(metavar="ID", help="A job's number or a study instance UID.")]


def jobs_of(database: Database, target: str) -> list[Job]:
    """The job with this number, or the jobs of a study that have an engine and are not superseded.

    Raises:
        CommandError: there is no such job or study.
    """
    if job := job_of_number(database, target):
        return [job]
    if Index(database).study(target) is None:
        raise CommandError(f"There is no study {target}: `overread queue --json` prints their UIDs.")
    return [
        j
        for j in Queue(database).jobs(study_instance_uid=target, limit=1000)
        if j.engine and j.state != "superseded"
    ]


def _apply_to_jobs(
    target: str,
    config: ConfigOption,
    states: frozenset[JobState],
    action: Callable[[Queue, Job], object],
    message: str,
) -> None:
    """Apply an action to the target's jobs in these states, print ``message`` for each, and wake the processes.

    Raises:
        CommandError: the target has no job in these states.
    """
    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        jobs = [job for job in jobs_of(database, target) if job.state in states]
        if not jobs:
            raise CommandError(f"Nothing to do: {target} has no job that is {' or '.join(sorted(states))}.")
        queue = Queue(database)
        for job in jobs:
            action(queue, job)
            console.print(f"job {job.id}: {message}")
    for role in ("worker", "courier", "ticker"):
        notify(configuration.run_dir, role)


def retry(
    target: Annotated[
        str | None, typer.Argument(metavar="ID", help="A job's number or a study instance UID.")
    ] = None,
    config: ConfigOption = None,
    deliveries: Annotated[
        bool, typer.Option("--deliveries", help="All failed and delayed deliveries instead of one ID.")
    ] = False,
    destination: Annotated[
        str | None, typer.Option(help="With --deliveries: only those to this destination.")
    ] = None,
) -> None:
    """Run failed or cancelled jobs again, and send failed or delayed deliveries now."""
    if deliveries == (target is not None) or (destination is not None and not deliveries):
        raise typer.BadParameter("name either an ID, or --deliveries with or without --destination.")
    configuration = load_configuration(config)
    names = [d.name for d in configuration.destinations()]
    if destination is not None and destination not in names:
        raise UsageError(f"There is no destination {destination!r}: there are {', '.join(names) or 'none'}.")
    with opened_database(configuration) as database:
        if target is None:
            count = Outbox(database).retry(destination=destination)
            console.print(f"{count} deliveries are due now")
        else:
            _retry_jobs(database, target)
    for role in ("worker", "courier"):
        notify(configuration.run_dir, role)


def _retry_jobs(database: Database, target: str) -> None:
    retried = 0
    for job in jobs_of(database, target):
        if job.state in states_before(JobEvent.RETRY):
            Queue(database).retry(job.id)
            console.print(f"job {job.id}: queued again")
            retried += 1
        elif count := Outbox(database).retry(job.id):
            console.print(f"job {job.id}: {count} deliveries are due now")
            retried += 1
    if not retried:
        raise CommandError(
            f"Nothing to do: {target} has no failed or cancelled job and no failed or delayed delivery."
        )


def cancel(target: TargetArgument, config: ConfigOption = None) -> None:
    """Cancel jobs that are not finished."""
    states = states_before(JobEvent.CANCEL)
    _apply_to_jobs(target, config, states, lambda queue, job: queue.cancel(job.id), "cancelled")


def prioritize(
    target: TargetArgument,
    config: ConfigOption = None,
    priority: Annotated[
        int, typer.Option(help="Higher runs first; jobs start with their rule's, usually 0.")
    ] = 100,
) -> None:
    """Let jobs run before others."""
    states = frozenset({JobState.QUEUED, JobState.WAITING})
    _apply_to_jobs(
        target, config, states, lambda queue, job: queue.prioritize(job.id, priority), f"priority {priority}"
    )


def reprocess(target: TargetArgument, config: ConfigOption = None) -> None:
    """Run a study again by the present rules, as a new revision whose reports name the former ones."""
    from node.steps.planning import plan_study  # imports the engines

    configuration = load_configuration(config)
    with opened_database(configuration) as database:
        uid = target
        if job := job_of_number(database, target):
            uid = job.study_instance_uid
        elif Index(database).study(uid) is None:
            raise CommandError(f"There is no study {uid}: `overread queue --json` prints their UIDs.")
        instances = Index(database).instances(uid)
        if not instances:
            raise CommandError(f"The images of study {uid} were removed by age: send them again.")
        jobs = Plans(database).reprocess(uid, len(instances), plan_study(configuration, instances))
    if jobs is None:
        raise CommandError(f"Study {uid} is being received: it is analysed when it is complete.")
    if not jobs:
        raise CommandError(f"Nothing to do: most images of study {uid} were removed by age.")
    for job in jobs:
        skipped = f": {job.reason}" if job.reason else ""
        console.print(f"job {job.id}: {job.engine or 'no engine'} {job.state}{skipped}", markup=False)
    notify(configuration.run_dir, "worker")
