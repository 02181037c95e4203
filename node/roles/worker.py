"""The worker process: keeps models loaded, claims jobs in batches across studies, and settles each."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterable, Sequence

from db.database import Database
from db.errors import DatabaseUnavailable, StaleLease
from db.queue import Queue
from db.records import Job, Outcome, WaitingFor
from db.wakeup import Wakeup, notify
from inference.engine import Engine
from inference.engines import engine_class
from inference.errors import DeviceLost, InferenceError, ModelAbsent, is_out_of_memory
from inference.reading.pool import close_readers, limit_readers, readers
from inference.store import ModelStore
from node.configuration.configuration import Configuration
from node.errors import ENDED_ITSELF, raised_at
from node.steps.batches import ensure_device_works
from node.steps.pipeline import Pipeline

log = logging.getLogger("overread.worker")

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
MODEL_RETRY_SECONDS = 2.0
BATCH_SIZE = 8
WATCH_SECONDS = 1.0
"""How often leases and deadlines are checked."""
LOADING_SHARE = 0.1
"""The largest share of its time that a worker spends on models that fail to load."""


class Worker:
    """Runs the jobs of some engines, all on one device."""

    def __init__(
        self, configuration: Configuration, database: Database, name: str, engines: Sequence[str]
    ) -> None:
        self.configuration = configuration
        self.name = name
        self.engines = tuple(engines)
        self.queue = Queue(database)
        self.pipeline = Pipeline(
            database, configuration.data_dir, overlay_compression=configuration.overlay.compression
        )
        self.store = ModelStore(configuration.models_dir)
        limit_readers(configuration.reader_limits())
        self.loaded: dict[str, Engine] = {}
        self.absent: dict[str, str] = {}
        self._load_after: dict[str, float] = {}
        self._held: list[Job] = []
        self._progress_at = time.monotonic()
        self._held_lock = threading.Lock()

    def serve(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. The present batch is finished first."""
        released = self.queue.release_worker(self.name)
        log.info("worker_started name=%s released=%d", self.name, released)
        wakeup = Wakeup(self.configuration.run_dir, "worker")
        renewer = threading.Thread(target=self._renew_leases, args=(stop,), name="leases", daemon=True)
        renewer.start()
        try:
            readers().warm()
            jobs_lost = False
            while not stop.is_set():
                try:
                    if jobs_lost:
                        self.queue.release_worker(self.name, "the database was away", blameless=True)
                        jobs_lost = False
                    worked = self.step()
                except DatabaseUnavailable as error:
                    log.error("database_unavailable error=%s", error)
                    jobs_lost, worked = True, False
                except DeviceLost as error:
                    # A new process can use the device. It releases these jobs, and each is tried again alone.
                    log.critical("device_lost device=%s", error)
                    os._exit(ENDED_ITSELF)
                if not worked:
                    wakeup.wait(POLL_SECONDS)
        finally:
            wakeup.close()
            close_readers()
        log.info("worker_stopped name=%s", self.name)

    def step(self) -> bool:
        """Claim and run one batch; False if nothing was due."""
        self._load_models()
        jobs = self.queue.claim(self.name, self.engines, BATCH_SIZE, LEASE_SECONDS)
        if not jobs:
            return False
        with self._held_lock:
            self._held = list(jobs)
            self._progress_at = time.monotonic()
        try:
            engine = self.loaded.get(str(jobs[0].engine))
            if engine is None:
                reason = self.absent[str(jobs[0].engine)]
                outcomes: Iterable[tuple[Job, Outcome]] = [(job, WaitingFor(reason=reason)) for job in jobs]
            else:
                outcomes = self.pipeline.run(engine, jobs)
            for job, outcome in outcomes:
                try:
                    self.queue.settle(job, outcome)
                except StaleLease:
                    log.warning("job_no_longer_ours job=%d", job.id)
                else:
                    log.info("job_settled job=%d outcome=%s", job.id, type(outcome).__name__)
                    notify(self.configuration.run_dir, "courier")
                with self._held_lock:
                    self._held = [held for held in self._held if held.id != job.id]
                    self._progress_at = time.monotonic()
        finally:
            with self._held_lock:
                self._held = []
        return True

    def _load_models(self) -> None:
        """Load engines that are not loaded yet, and queue the jobs that waited for their models."""
        for name in self.engines:
            if name in self.loaded or time.monotonic() < self._load_after.get(name, 0.0):
                continue
            started = time.monotonic()
            engine = self._load(name)
            seconds = time.monotonic() - started
            if engine is None:
                pause = max(MODEL_RETRY_SECONDS, seconds / LOADING_SHARE)
                self._load_after[name] = time.monotonic() + pause
                continue
            # Jobs first: if the database fails here, the model is loaded again, and no job keeps waiting.
            woken = self.queue.wake_waiting(name)
            self.loaded[name] = engine
            self.absent.pop(name, None)
            log.info("model_loaded engine=%s seconds=%.1f woken=%d", name, seconds, woken)

    def _load(self, name: str) -> Engine | None:
        """Load one engine; None if that fails, with the reason in ``absent``.

        Raises:
            DeviceLost: the device no longer works in this process.
        """
        settings = self.configuration.engine_settings(name)
        try:
            return engine_class(settings.kind).load(settings, self.store)
        except InferenceError as error:
            level = logging.WARNING if isinstance(error, ModelAbsent) else logging.ERROR
            self._note_absent(name, level, str(error), str(error))
            return None
        except Exception as error:
            # Loading runs foreign code, which may raise anything; the other engines go on.
            reason = f"the model cannot be loaded ({type(error).__name__}): see the log"
            if is_out_of_memory(error):
                reason = "the device has too little memory for the model"
            self._note_absent(name, logging.ERROR, reason, f"{type(error).__name__} at {raised_at(error)}")
        ensure_device_works(settings.device)
        return None

    def _note_absent(self, name: str, level: int, reason: str, logged: str) -> None:
        if self.absent.get(name) != reason:
            log.log(level, "model_not_loaded engine=%s reason=%s", name, logged)
        self.absent[name] = reason

    def _renew_leases(self, stop: threading.Event) -> None:
        renewed_at = time.monotonic()
        while not stop.wait(WATCH_SECONDS):
            with self._held_lock:
                jobs = list(self._held)
                silent = time.monotonic() - self._progress_at
            if not jobs:
                continue
            self._end_if_hanging(jobs, silent)
            if time.monotonic() - renewed_at < LEASE_SECONDS / 3:
                continue
            renewed_at = time.monotonic()
            try:
                self.queue.renew(jobs, LEASE_SECONDS)
            except (StaleLease, DatabaseUnavailable) as error:
                log.warning("lease_not_renewed error=%s", error)

    def _end_if_hanging(self, jobs: Sequence[Job], silent: float) -> None:
        """Exit if no job had an outcome for too long, because nothing else stops native code that hangs.

        The supervisor starts a new process. It releases these jobs, and each is tried again alone.
        """
        deadline = self.configuration.engine_named(str(jobs[0].engine)).deadline_seconds
        if silent > deadline:
            log.critical("worker_hangs engine=%s jobs=%d seconds=%.0f", jobs[0].engine, len(jobs), silent)
            os._exit(ENDED_ITSELF)
