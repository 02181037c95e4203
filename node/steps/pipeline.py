"""Runs jobs through their engine: finds their files, writes their results and decides their outcomes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from db.database import Database
from db.index import Index
from db.queue import Queue
from db.records import Done, Failed, Job, Outcome, RetryAfter, Skipped
from db.results import Results
from db.retry import DISK, ENGINE
from handlers.spool.stored_files import StoredFiles
from inference.engine import Engine
from inference.findings import Analysis, Refusal, mixed_patients
from inference.offline.output import stage_summary
from node.steps import artifacts
from node.steps.batches import Batches, Cause, Failure, Inputs, Result
from node.steps.reports import series_number, written_objects
from sr_writer import OverlayCompression, PredecessorReport, ReportContext

log = logging.getLogger("overread.pipeline")


class Pipeline:
    """Runs jobs of one data folder and database. Thread-safe if the engine is."""

    def __init__(
        self,
        database: Database,
        data_dir: Path,
        threads: int = 2,
        overlay_compression: OverlayCompression = "none",
    ) -> None:
        self.index = Index(database)
        self.queue = Queue(database)
        self.results = Results(database)
        self.files = StoredFiles(data_dir)
        self.overlay_compression = overlay_compression
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def run(self, engine: Engine, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs of one engine in batches of its size, and yield each job with its outcome as soon as it has one.

        Raises:
            DeviceLost: the engine's device no longer works in this process. Jobs without an outcome have to run in
                another one.
        """
        batches = Batches(engine, self._inputs, self.readers, engine.batch_size)
        for job, results in batches.run(jobs):
            yield job, self._outcome(job, results, engine.model.version)

    def _inputs(self, job: Job) -> Inputs:
        """The files of a job. A series with several patients is refused."""
        wanted = set(job.inputs)
        instances = {
            i.sop_instance_uid: i
            for i in self.index.instances(job.study_instance_uid, job.series_instance_uid)
            if i.sop_instance_uid in wanted
        }
        missing = wanted - instances.keys()
        if missing:
            reason = f"{len(missing)} of {len(wanted)} inputs are not indexed"
            return Failure(path=self.files.root, reason=reason, cause=Cause.INPUT)
        try:
            files = [self.files.local(instances[uid].path) for uid in job.inputs]
        except OSError as error:
            reason = f"the inputs cannot be read: {error.strerror}"
            return Failure(path=self.files.root, reason=reason, cause=Cause.DISK)
        patients = {_value_text(instances[uid].attributes.get("PatientID")) for uid in job.inputs}
        return Refusal(path=files[0], reason=mixed_patients(len(patients))) if len(patients) > 1 else files

    def _outcome(self, job: Job, results: Sequence[Result], version: str) -> Outcome:
        """The outcome of a job. One failure fails it; it is skipped only if all cases were refused."""
        for result in results:
            if isinstance(result, Failure):
                return outcome_of(result, job.attempts)
        analyses = [result for result in results if isinstance(result, Analysis)]
        if analyses:
            return self._write(job, analyses)
        reasons = dict.fromkeys(result.reason for result in results if isinstance(result, Refusal))
        return Skipped(reason="; ".join(reasons), model_version=version)

    def _write(self, job: Job, analyses: Sequence[Analysis]) -> Outcome:
        """Write the results of a job to files."""
        started = time.perf_counter()
        version = analyses[0].model.version
        context = ReportContext(
            job_seed="|".join(
                (
                    job.study_instance_uid,
                    job.series_instance_uid,
                    str(job.engine),
                    version,
                    job.inputs_digest,
                    str(job.revision),
                )
            ),
            engine_name=str(job.engine),
            content_datetime=job.created_at,
            series_number=series_number(self.queue.earlier_jobs(job)),
            predecessor=self._predecessor(job),
            overlay_compression=self.overlay_compression,
        )
        try:
            written = written_objects(analyses, context)
            if isinstance(written, Refusal):
                return Skipped(reason=written.reason, model_version=version)
            if isinstance(written, Failure):
                return outcome_of(written, job.attempts)
            results = tuple(artifacts.store(item, job, self.files) for item in written)
        except OSError as error:
            log.warning("results_not_written job=%d error=%s", job.id, error.strerror)
            reason = f"the results cannot be written: {error.strerror}"
            return RetryAfter(seconds=DISK.pause(job.attempts), reason=reason)
        advised = [a.review_advised for a in analyses if a.review_advised]
        summary: dict[str, Any] = {
            **stage_summary(analyses),
            "write_ms": round(1000 * (time.perf_counter() - started), 1),
            "review_advised": advised[0] if advised else None,
        }
        return Done(model_version=version, results=results, summary=summary, review_advised=bool(advised))

    def _predecessor(self, job: Job) -> PredecessorReport | None:
        """The report of the last predecessor that has one."""
        predecessor_id = job.predecessor_id
        while predecessor_id is not None:
            for result in self.results.of_job(predecessor_id):
                if result.kind == "sr":
                    return PredecessorReport(
                        study_instance_uid=result.study_instance_uid,
                        series_instance_uid=result.series_instance_uid,
                        sop_class_uid=result.sop_class_uid,
                        sop_instance_uid=result.sop_instance_uid,
                    )
            predecessor = self.queue.get(predecessor_id)
            predecessor_id = None if predecessor is None else predecessor.predecessor_id
        return None


def outcome_of(failure: Failure, attempts: int) -> Outcome:
    """The outcome of a job with a failure: failed for good, or tried again after a pause."""
    if failure.cause is Cause.INPUT:
        return Failed(reason=failure.reason)
    policy = DISK if failure.cause is Cause.DISK else ENGINE
    return RetryAfter(seconds=policy.pause(attempts), reason=failure.reason)


def _value_text(value: str | list[str] | None) -> str:
    """An attribute's value as DICOM writes it, with backslashes between several."""
    return "" if value is None else "\\".join([value] if isinstance(value, str) else value).strip()
