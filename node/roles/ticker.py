"""The ticker process: plans complete studies, takes back expired leases and removes what is too old."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from functools import partial

from apscheduler.schedulers.background import BackgroundScheduler

from db.database import Database
from db.errors import DatabaseUnavailable
from db.index import Index
from db.outbox import Outbox
from db.plans import Plans
from db.queue import Queue
from db.records import StudyProgress
from db.retention import Retention
from db.states import DeliveryState
from db.wakeup import Wakeup, notify
from handlers.spool.stored_files import StoredFiles
from node.configuration.configuration import Configuration
from node.steps.planning import plan_study

log = logging.getLogger("overread.ticker")

POLL_SECONDS = 0.25
LEASE_CHECK_SECONDS = 5.0
RETENTION_SECONDS = 600.0
SET_BACK_SECONDS = 60.0
"""The clocks of several machines differ by less than this."""
SINGLE_IMAGE_MODALITIES = frozenset({"CR", "DX", "MG", "PX", "IO"})
"""Modalities that send a whole study over one association, so that its release completes the study."""


def is_complete(study: StudyProgress, now: datetime, quiet_seconds: float) -> bool:
    """Whether a study is complete.

    It is if all expected instances are there, if the association that brought it was released and its modalities send a
    study over one association, or if nothing came for ``quiet_seconds``.
    """
    if study.expected_instances is not None and study.instance_count >= study.expected_instances:
        return True
    if study.released and study.modalities and SINGLE_IMAGE_MODALITIES.issuperset(study.modalities):
        return True
    waited = (now - study.last_instance_at).total_seconds()
    # An instance whose time is far in the future arrived before the clock was set back.
    return waited >= quiet_seconds or -waited >= max(quiet_seconds, SET_BACK_SECONDS)


class Ticker:
    """Polls the database at short intervals, and at once when another process sends a hint."""

    def __init__(self, configuration: Configuration, database: Database) -> None:
        self.configuration = configuration
        self.files = StoredFiles(configuration.data_dir)
        self.index = Index(database)
        self.queue = Queue(database)
        self.plans = Plans(database)
        self.outbox = Outbox(database)
        self.retention = Retention(database)

    def serve(self, stop: threading.Event) -> None:
        """Tick until ``stop`` is set."""
        scheduler = BackgroundScheduler(timezone=UTC)
        scheduler.add_job(
            self.reclaim_leases,
            "interval",
            seconds=LEASE_CHECK_SECONDS,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=60,
        )
        scheduler.add_job(
            self.apply_retention,
            "interval",
            seconds=RETENTION_SECONDS,
            coalesce=True,
            max_instances=1,
            misfire_grace_time=None,
            next_run_time=datetime.now(UTC),
        )
        # Once, in the background: it reads tables that may be long.
        scheduler.add_job(self.warn_of_unconfigured)
        scheduler.start()
        wakeup = Wakeup(self.configuration.run_dir, "ticker")
        log.info("ticker_started")
        try:
            while not stop.is_set():
                try:
                    self.complete_studies()
                except DatabaseUnavailable as error:
                    log.error("database_unavailable error=%s", error)
                wakeup.wait(POLL_SECONDS)
        finally:
            wakeup.close()
            scheduler.shutdown(wait=True)
        log.info("ticker_stopped")

    def complete_studies(self) -> int:
        """Plan the jobs of every complete study; returns how many studies were complete."""
        now = datetime.now(UTC)
        completed = 0
        for study in self.index.receiving():
            if not is_complete(study, now, self.configuration.completion.quiet_seconds):
                continue
            instances = self.index.instances(study.study_instance_uid)
            plan = plan_study(self.configuration, instances)
            jobs = self.plans.complete_study(study.study_instance_uid, study.instance_count, plan)
            if jobs is None:
                continue
            completed += 1
            log.info("study_complete instances=%d jobs=%d", len(instances), len(jobs))
            if jobs:
                # Now, not after the last: many studies may be complete at once, after a pause for example.
                notify(self.configuration.run_dir, "worker")
        return completed

    def warn_of_unconfigured(self) -> None:
        """Log deliveries and jobs that wait for a destination or engine which is not in the configuration."""
        destinations = {d.name for d in self.configuration.destination}
        engines = {e.name for e in self.configuration.engine}
        try:
            pending = self.outbox.counts()
            waiting = self.queue.waiting_by_engine()
        except DatabaseUnavailable as error:
            log.error("database_unavailable error=%s", error)
            return
        for (name, state), count in pending.items():
            if name not in destinations and state == DeliveryState.PENDING:
                log.warning("deliveries_wait destination=%s count=%d reason=not configured", name, count)
        for name, count in waiting.items():
            if name not in engines:
                log.warning("jobs_wait engine=%s count=%d reason=not configured", name, count)

    def reclaim_leases(self) -> None:
        """Take back jobs and deliveries whose leases ran out."""
        now = datetime.now(UTC)
        try:
            jobs = self.queue.reclaim_expired(now)
            deliveries = self.outbox.reclaim_expired(now)
        except DatabaseUnavailable as error:
            log.error("database_unavailable error=%s", error)
            return
        if jobs or deliveries:
            log.warning("leases_reclaimed jobs=%d deliveries=%d", jobs, deliveries)
            notify(self.configuration.run_dir, "worker")
            notify(self.configuration.run_dir, "courier")

    def apply_retention(self) -> None:
        """Remove what is older than ``[retention]`` allows: rows first, then files."""
        retention = self.configuration.retention
        committing = [d.name for d in self.configuration.destination if d.commit]
        now = datetime.now(UTC)
        try:
            for days, remove in (
                (retention.received, self.retention.forget_received),
                (retention.results, partial(self.retention.forget_results, committing=committing)),
            ):
                while days is not None and (paths := remove(now - timedelta(days=days))):
                    for path in paths:
                        self._remove(path)
                    log.info("retention_removed files=%d", len(paths))
        except DatabaseUnavailable as error:
            log.error("database_unavailable error=%s", error)

    def _remove(self, path: str) -> None:
        try:
            self.files.remove(path)
        except OSError as error:
            log.error("file_not_removed error=%s", error.strerror)
