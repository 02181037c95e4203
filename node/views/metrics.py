"""Prometheus metrics of the whole node, read from the database when they are scraped."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from db.database import Database
from db.errors import DatabaseError
from db.states import DeliveryState, JobState
from db.statistics import Latency, Statistics, gather
from node.configuration.configuration import Configuration

GATHERING_SHARE = 0.05
"""The largest share of time that goes into reading the numbers, however often they are scraped."""


class DatabaseCollector(Collector):
    """Reads the metrics of all processes. ``overread_up`` is 0 while the database does not answer."""

    def __init__(self, configuration: Configuration, database: Database) -> None:
        self.configuration = configuration
        self.database = database
        self._lock = threading.Lock()
        self._statistics: Statistics | None = None
        self._fresh_until = 0.0

    def describe(self) -> Iterator[Metric]:
        """No metric, so that registering the collector does not need the database."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """All metrics; only ``overread_up`` while the database does not answer."""
        up = GaugeMetricFamily("overread_up", "1 if the database answers.")
        try:
            statistics = self._gather()
        except DatabaseError:
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from _queue_metrics(statistics)
        yield from _received_metrics(statistics)
        yield from self._delivery_metrics(statistics)
        lasting = {"waiting": statistics.waiting, "running": statistics.running}
        yield _latency_metric(lasting | statistics.stages)
        disk = GaugeMetricFamily("overread_disk_free_bytes", "Free space below the data folder.")
        disk.add_metric([], shutil.disk_usage(self.configuration.data_dir).free)
        yield disk

    def _gather(self) -> Statistics:
        """The numbers, read by one thread at a time. Where reading takes long, recent ones are used again."""
        with self._lock:
            started = time.monotonic()
            if self._statistics is None or started >= self._fresh_until:
                self._statistics = gather(self.database)
                self._fresh_until = started + (time.monotonic() - started) / GATHERING_SHARE
            else:
                self.database.schema_status()  # raises if the database does not answer
            return self._statistics

    def _delivery_metrics(self, statistics: Statistics) -> Iterator[Metric]:
        deliveries = GaugeMetricFamily(
            "overread_deliveries",
            "Objects by destination and delivery state.",
            labels=["destination", "state"],
        )
        destinations = {d.name for d in self.configuration.destinations()}
        for destination in sorted(destinations | {name for name, _ in statistics.deliveries}):
            for state in DeliveryState:
                deliveries.add_metric(
                    [destination, state], statistics.deliveries.get((destination, state), 0)
                )
        yield deliveries


def _queue_metrics(statistics: Statistics) -> Iterator[Metric]:
    depth = GaugeMetricFamily("overread_jobs", "Jobs by state.", labels=["state"])
    age = GaugeMetricFamily(
        "overread_oldest_job_age_seconds",
        "Age of the oldest job of a state that waits or runs.",
        labels=["state"],
    )
    now = datetime.now(UTC)
    for state in JobState:
        depth.add_metric([state], statistics.jobs.get(state, 0))
    for state in (JobState.QUEUED, JobState.RUNNING, JobState.WAITING):
        oldest = statistics.oldest_job.get(state)
        age.add_metric([state], 0.0 if oldest is None else (now - oldest).total_seconds())
    yield depth
    yield age
    studies = GaugeMetricFamily("overread_studies", "Studies by state.", labels=["state"])
    for name, count in sorted(statistics.studies.items()):
        studies.add_metric([name], count)
    yield studies


def _received_metrics(statistics: Statistics) -> Iterator[Metric]:
    counters = (
        ("overread_instances_received", "Instances received and kept.", statistics.instances),
        ("overread_received_bytes", "Bytes received and kept.", statistics.instance_bytes),
        ("overread_quarantined", "Objects in quarantine.", statistics.quarantined),
        ("overread_results", "Objects made.", statistics.results),
        ("overread_result_bytes", "Bytes of objects made.", statistics.result_bytes),
    )
    for name, text, value in counters:
        counter = CounterMetricFamily(name, text)
        counter.add_metric([], value)
        yield counter
    rate = GaugeMetricFamily("overread_instances_last_hour", "Instances received in the last hour.")
    rate.add_metric([], statistics.instances_last_hour)
    yield rate


def _latency_metric(stages: dict[str, Latency]) -> Metric:
    latency = GaugeMetricFamily(
        "overread_stage_seconds",
        "Seconds that jobs of the last hour spent in a stage.",
        labels=["stage", "quantile"],
    )
    for stage, seconds in stages.items():
        latency.add_metric([stage, "0.5"], seconds.median_seconds)
        latency.add_metric([stage, "0.95"], seconds.p95_seconds)
    return latency
