"""Counts, ages and latencies for the command line and the metrics."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import func, select

from db.database import Database, now, read_optional_time, read_time, time_text
from db.tables import deliveries, instances, jobs, quarantine, results, studies

SUMMARIES = 500
"""Of how many jobs the stages are read at most."""


@dataclass(frozen=True, kw_only=True)
class Latency:
    """How long ``count`` jobs took for one stage: median and 95th percentile."""

    count: int
    median_seconds: float
    p95_seconds: float


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The numbers of the node at one moment.

    ``studies`` and ``jobs`` are counted by state, ``deliveries`` by destination and state. ``oldest_job`` is when the
    oldest job of each state was created. Latencies are those of jobs that finished in the last hour.
    """

    studies: dict[str, int]
    instances: int
    instance_bytes: int
    instances_last_hour: int
    quarantined: int
    results: int
    result_bytes: int
    jobs: dict[str, int]
    oldest_job: dict[str, datetime]
    deliveries: dict[tuple[str, str], int]
    waiting: Latency
    """From the job's creation to its start."""
    running: Latency
    """From the job's start to its end."""
    stages: dict[str, Latency]
    """By stage of a worker, as the summaries of the latest jobs say (their members that end in ``_ms``)."""


def gather(database: Database) -> Statistics:
    """Read all numbers in one transaction."""
    since = time_text(now() - timedelta(hours=1))
    with database.read() as connection:
        study_states = connection.execute(
            select(studies.c.state, func.count()).group_by(studies.c.state)
        ).all()
        # Summed by study, because there may be millions of instances.
        received = connection.execute(
            select(
                func.coalesce(func.sum(studies.c.instance_count), 0),
                func.coalesce(func.sum(studies.c.instance_bytes), 0),
            )
        ).one()
        recent_studies = select(studies.c.study_instance_uid).where(studies.c.last_instance_at >= since)
        instances_last_hour = connection.execute(
            select(func.count(instances.c.id)).where(
                instances.c.study_instance_uid.in_(recent_studies), instances.c.received_at >= since
            )
        ).scalar_one()
        result_totals = connection.execute(
            select(func.count(results.c.id), func.coalesce(func.sum(results.c.size), 0))
        ).one()
        quarantined = connection.execute(select(func.count()).select_from(quarantine)).scalar_one()
        jobs_by_state = connection.execute(
            select(jobs.c.state, func.count(), func.min(jobs.c.created_at)).group_by(jobs.c.state)
        ).all()
        delivery_counts = connection.execute(
            select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
                deliveries.c.destination, deliveries.c.state
            )
        ).all()
        times = connection.execute(
            select(jobs.c.created_at, jobs.c.started_at, jobs.c.finished_at).where(
                jobs.c.finished_at >= since, jobs.c.started_at.is_not(None)
            )
        ).all()
        summaries = connection.execute(
            select(jobs.c.summary)
            .where(jobs.c.finished_at >= since, jobs.c.summary.is_not(None))
            .order_by(jobs.c.finished_at.desc())
            .limit(SUMMARIES)
        ).scalars()
        stages = _stages([json.loads(summary) for summary in summaries])
    return Statistics(
        studies={state: count for state, count in study_states},
        instances=int(received[0]),
        instance_bytes=int(received[1]),
        instances_last_hour=instances_last_hour,
        quarantined=quarantined,
        results=result_totals[0],
        result_bytes=int(result_totals[1]),
        jobs={state: count for state, count, _ in jobs_by_state},
        oldest_job={
            state: oldest
            for state, _, text in jobs_by_state
            if (oldest := read_optional_time(text)) is not None
        },
        deliveries={(destination, state): count for destination, state, count in delivery_counts},
        waiting=_latency([(read_time(s) - read_time(c)).total_seconds() for c, s, _ in times]),
        running=_latency([(read_time(f) - read_time(s)).total_seconds() for _, s, f in times]),
        stages=stages,
    )


def _stages(summaries: list[dict[str, Any]]) -> dict[str, Latency]:
    seconds: dict[str, list[float]] = {}
    for summary in summaries:
        for name, value in summary.items():
            if name.endswith("_ms") and isinstance(value, int | float):
                seconds.setdefault(name.removesuffix("_ms"), []).append(value / 1000)
    return {name: _latency(values) for name, values in sorted(seconds.items())}


def _latency(unordered: list[float]) -> Latency:
    seconds = sorted(unordered)
    if not seconds:
        return Latency(count=0, median_seconds=0.0, p95_seconds=0.0)
    return Latency(
        count=len(seconds),
        median_seconds=seconds[len(seconds) // 2],
        p95_seconds=seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
    )
