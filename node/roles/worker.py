"""The worker process: keeps models loaded, claims jobs ahead for its line of stages, and settles them in groups."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from db.database import Database
from db.errors import DatabaseUnavailable, StaleLease
from db.queue import Queue
from db.records import Job, Outcome, WaitingFor
from db.wakeup import Wakeup, notify
from inference.engine import Engine
from inference.engines import engine_class
from inference.errors import DeviceLost, InferenceError, ModelAbsent, is_out_of_memory
from inference.reading.pool import close_readers, limit_readers
from inference.store import ModelStore
from inference.threads import usable_cores
from node.configuration.configuration import Configuration
from node.errors import ENDED_ITSELF, raised_at
from node.line.device import ensure_device_works
from node.line.line import Line
from node.line.pool import StagePool
from node.line.stage_child import StageSettings
from node.log import configure_log
from node.steps.pipeline import Pipeline
from node.steps.written_job import WrittenJob

log = logging.getLogger("overread.worker")

LEASE_SECONDS = 60.0
POLL_SECONDS = 0.5
MODEL_RETRY_SECONDS = 2.0
WATCH_SECONDS = 1.0
"""How often leases and deadlines are checked."""
LOADING_SHARE = 0.1
"""The largest share of its time that a worker spends on models that fail to load."""
MOST_AHEAD = 32
"""Most jobs on the line; of the network's batches, some are prepared while others are written."""
MOST_BYTES_AHEAD = 512 * 1024 * 1024
"""Bytes of the files of the jobs on the line, above which no further job is claimed."""
MOST_AT_ONCE = 16
"""Jobs claimed in one transaction."""
URGENT_AHEAD = 4
"""Jobs of higher priority than all on the line that are claimed although it is full."""
MOST_LANES = 16
STAGE_MODULES = ("node.steps.written_job", "scipy.ndimage", "PIL.ImageFont")
"""What stage processes need for every engine, loaded before the first job."""
DRAIN_SECONDS = 25.0
"""How long a worker that stops waits for the jobs on its line. The others are queued again."""


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
        limits = configuration.reader_limits()
        limit_readers(limits)
        kinds = {configuration.engine_named(engine).kind for engine in engines}
        settings = StageSettings(
            modules=(*STAGE_MODULES, *sorted(engine_class(kind).__module__ for kind in kinds)),
            begin=partial(configure_log, f"{name.rpartition(':')[2]}-stage", configuration.log.format),
            reader_limits=limits,
        )
        self.stages = StagePool(min(MOST_LANES, usable_cores() + 1), settings)
        self.line: Line[Job, WrittenJob] = Line(self.stages)
        self.loaded: dict[str, Engine] = {}
        self.absent: dict[str, str] = {}
        self._load_after: dict[str, float] = {}
        self._claimed: list[Job] = []
        """Jobs that are not on the line yet."""

    def serve(self, stop: threading.Event) -> None:
        """Work until ``stop`` is set. What is on the line is finished first."""
        released = self.queue.release_worker(self.name)
        log.info("worker_started name=%s released=%d", self.name, released)
        wakeup = Wakeup(self.configuration.run_dir, "worker")
        ended = threading.Event()
        watched = self._start("leases", lambda: self._watch_until(ended))
        settled = self._start("settling", lambda: self._settle_until(ended, wakeup))
        warm = self._start("warming", self.stages.warm)
        try:
            jobs_lost = ready = False
            while not stop.is_set():
                try:
                    if jobs_lost and self.line.wait_empty(POLL_SECONDS):
                        self.queue.release_worker(self.name, "the database was away", blameless=True)
                        jobs_lost = False
                    self._load_models()
                    if not ready:
                        warm.join()
                        ready = True
                        log.info("worker_ready name=%s engines=%d", self.name, len(self.loaded))
                    claimed = not jobs_lost and self.claim()
                except DatabaseUnavailable as error:
                    log.error("database_unavailable error=%s", error)
                    jobs_lost, claimed = True, False
                if not claimed:
                    wakeup.wait(POLL_SECONDS)
            self.line.wait_empty(DRAIN_SECONDS)
            ended.set()
            for thread in (warm, settled, watched):
                thread.join()
            try:
                self.queue.release_worker(self.name, "its worker stopped", blameless=True)
            except DatabaseUnavailable as error:
                log.error(
                    "database_unavailable error=%s", error
                )  # the next worker of this name releases them
        finally:
            ended.set()
            wakeup.close()
            self.line.close()
            close_readers()
        log.info("worker_stopped name=%s", self.name)

    def claim(self) -> bool:
        """Claim due jobs, as many as the line has room for, and put them onto it; False if there were none."""
        jobs = self._claim()
        if not jobs:
            return False
        self._claimed = list(jobs)
        try:
            if jobs[0].attempts > 1:
                # It failed or killed a process before. Nothing else may be on the line with it.
                while not self.line.wait_empty(POLL_SECONDS):
                    pass
            table = self.configuration.engine_named(str(jobs[0].engine))
            engine = self.loaded.get(table.name)
            if engine is None:
                self._record([(job, WaitingFor(reason=self.absent[table.name])) for job in jobs])
                return True
            for job in jobs:
                self.line.put(self.pipeline.work(engine, table, job))
        finally:
            self._claimed = []
        return True

    def _claim(self) -> list[Job]:
        held = [work.item for work in self.line.held()]
        if any(job.attempts > 1 for job in held):
            return []
        room = MOST_AHEAD - len(held)
        room_bytes = MOST_BYTES_AHEAD - sum(job.input_bytes for job in held)
        if not held or (room > 0 and room_bytes > 0):
            limit = min(room, MOST_AT_ONCE)
            return self.queue.claim(self.name, self.engines, limit, LEASE_SECONDS, most_bytes=room_bytes)
        if room > -URGENT_AHEAD:
            urgent_over = max(job.priority for job in held)
            return self.queue.claim(self.name, self.engines, 1, LEASE_SECONDS, urgent_over=urgent_over)
        return []

    def _settle_until(self, ended: threading.Event, wakeup: Wakeup) -> None:
        """Settle finished jobs, those together that finish while others are being settled."""
        while not ended.is_set():
            try:
                works = self.line.take(POLL_SECONDS)
            except DeviceLost as error:
                # A new process can use the device. It releases these jobs, and each is tried again alone.
                log.critical("device_lost device=%s", error)
                os._exit(ENDED_ITSELF)
            if not works:
                continue
            outcomes = self.pipeline.outcomes(works)
            while not ended.is_set():
                try:
                    self._record(outcomes)
                    break
                except DatabaseUnavailable as error:
                    log.error("database_unavailable error=%s", error)
                    time.sleep(POLL_SECONDS)
            for work in works:
                if isinstance(work.made, WrittenJob):
                    self.queue.measured([work.item], work.times.device_ms / 1000)
                self.line.release(work)
            wakeup.hint()

    def _record(self, outcomes: Sequence[tuple[Job, Outcome]]) -> None:
        stale = {job.id for job in self.queue.settle_all(outcomes)}
        for job, outcome in outcomes:
            if job.id in stale:
                log.warning("job_no_longer_ours job=%d", job.id)
            else:
                log.info("job_settled job=%d outcome=%s", job.id, type(outcome).__name__)
        notify(self.configuration.run_dir, "courier")

    @staticmethod
    def _start(name: str, target: Callable[[], None]) -> threading.Thread:
        """Run a thread whose end by an error ends the process: nobody would do its work."""

        def guarded() -> None:
            try:
                target()
            except Exception as error:
                log.critical(
                    "worker_failed thread=%s error=%s place=%s", name, type(error).__name__, raised_at(error)
                )
                os._exit(ENDED_ITSELF)

        thread = threading.Thread(target=guarded, name=name, daemon=True)
        thread.start()
        return thread

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

    def _watch_until(self, ended: threading.Event) -> None:
        """Renew leases, and exit if the device hangs, because nothing else stops native code that does.

        The supervisor starts a new process. It releases the jobs, and each is tried again alone.
        """
        renewed_at = time.monotonic()
        while not ended.wait(WATCH_SECONDS):
            overdue = self.line.overdue()
            if overdue:
                log.critical("worker_hangs engine=%s jobs=%d", overdue[0].item.engine, len(overdue))
                os._exit(ENDED_ITSELF)
            jobs = [*self._claimed, *(work.item for work in self.line.held())]
            if not jobs or time.monotonic() - renewed_at < LEASE_SECONDS / 3:
                continue
            renewed_at = time.monotonic()
            try:
                self.queue.renew(jobs, LEASE_SECONDS)
            except (StaleLease, DatabaseUnavailable) as error:
                log.warning("lease_not_renewed error=%s", error)
