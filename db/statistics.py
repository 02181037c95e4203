"""Counts, ages and latencies for the command line and the metrics."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import func, select

from db.database import Database, now, read_optional_time, read_time, time_text
from db.tables import deliveries, instances, jobs, quarantine, results, studies


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds between two moments of many jobs: how many jobs, median and 95th percentile."""

    count: int
    median_seconds: float
    p95_seconds: float


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """The node at one moment; latencies and rates are those of the last hour."""

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


def gather(database: Database) -> Statistics:
    """Read everything in one consistent view."""
    since = time_text(now() - timedelta(hours=1))
    with database.read() as connection:
        study_states = connection.execute(
            select(studies.c.state, func.count()).group_by(studies.c.state)
        ).all()
        # By study: there may be millions of instances.
        received = connection.execute(
            select(
                func.coalesce(func.sum(studies.c.instance_count), 0),
                func.coalesce(func.sum(studies.c.instance_bytes), 0),
            )
        ).one()
        lately = select(studies.c.study_instance_uid).where(studies.c.last_instance_at >= since)
        recent = connection.execute(
            select(func.count(instances.c.id)).where(
                instances.c.study_instance_uid.in_(lately), instances.c.received_at >= since
            )
        ).scalar_one()
        made = connection.execute(
            select(func.count(results.c.id), func.coalesce(func.sum(results.c.size), 0))
        ).one()
        kept = connection.execute(select(func.count()).select_from(quarantine)).scalar_one()
        by_state = connection.execute(
            select(jobs.c.state, func.count(), func.min(jobs.c.created_at)).group_by(jobs.c.state)
        ).all()
        sent = connection.execute(
            select(deliveries.c.destination, deliveries.c.state, func.count()).group_by(
                deliveries.c.destination, deliveries.c.state
            )
        ).all()
        times = connection.execute(
            select(jobs.c.created_at, jobs.c.started_at, jobs.c.finished_at).where(
                jobs.c.finished_at >= since, jobs.c.started_at.is_not(None)
            )
        ).all()
    return Statistics(
        studies={state: count for state, count in study_states},
        instances=int(received[0]),
        instance_bytes=int(received[1]),
        instances_last_hour=recent,
        quarantined=kept,
        results=made[0],
        result_bytes=int(made[1]),
        jobs={state: count for state, count, _ in by_state},
        oldest_job={
            state: oldest for state, _, text in by_state if (oldest := read_optional_time(text)) is not None
        },
        deliveries={(destination, state): count for destination, state, count in sent},
        waiting=_latency([(read_time(c), read_time(s)) for c, s, _ in times]),
        running=_latency([(read_time(s), read_time(f)) for _, s, f in times]),
    )


def _latency(spans: list[tuple[datetime, datetime]]) -> Latency:
    seconds = sorted((end - start).total_seconds() for start, end in spans)
    if not seconds:
        return Latency(count=0, median_seconds=0.0, p95_seconds=0.0)
    return Latency(
        count=len(seconds),
        median_seconds=seconds[len(seconds) // 2],
        p95_seconds=seconds[min(len(seconds) - 1, int(0.95 * len(seconds)))],
    )
