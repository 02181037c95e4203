"""The steps of a batch of jobs: read the inputs, infer, write the reports, and say how each job ended."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from db.database import Database
from db.index import Index
from db.queue import Queue
from db.records import Done, Failed, Job, Outcome, RetryAfter, Skipped
from db.results import Results
from db.retry import DISK
from handlers.spool.stored_files import StoredFiles
from inference.checking.plausibility import nothing_left
from inference.engine import Case, Engine
from inference.errors import InferenceError, is_out_of_memory
from inference.findings import Analysis, Refusal, mixed_patients
from inference.offline.output import stage_summary
from node.errors import raised_at
from node.steps import artifacts
from sr_writer.context import PredecessorReport, ReportContext
from sr_writer.results import write_results

log = logging.getLogger("overread.pipeline")

RETRY_SECONDS = 5.0
TOO_LITTLE_MEMORY = "the device has too little memory for this input alone"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """The inputs of one job, read: cases to infer, or the outcome that it has already come to."""

    job: Job
    cases: tuple[Case, ...] = ()
    outcome: Outcome | None = None


class Pipeline:
    """Runs jobs of one data folder and database. Thread-safe where the engine is."""

    def __init__(self, database: Database, data_dir: Path, threads: int = 2) -> None:
        self.index = Index(database)
        self.queue = Queue(database)
        self.results = Results(database)
        self.files = StoredFiles(data_dir)
        self.readers = ThreadPoolExecutor(threads, thread_name_prefix="reader")

    def run(self, engine: Engine, jobs: Sequence[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Run jobs of one engine in batches of its size; every job gets an outcome, as soon as it has one.

        While one batch infers, the next one is read.

        Raises
        ------
        DeviceLost
            If the engine's device answers no more; jobs without an outcome have to run in another process.
        """
        size = max(1, engine.batch_size)
        batches = [jobs[start : start + size] for start in range(0, len(jobs), size)]
        reading = self._read(engine, batches[0]) if batches else []
        for number in range(len(batches)):
            prepared = [future.result() for future in reading]
            reading = self._read(engine, batches[number + 1]) if number + 1 < len(batches) else []
            yield from self._infer(engine, prepared)

    def _read(self, engine: Engine, jobs: Sequence[Job]) -> list[Future[Prepared]]:
        return [self.readers.submit(self._prepare, engine, job) for job in jobs]

    def _infer(self, engine: Engine, prepared: Sequence[Prepared]) -> Iterator[tuple[Job, Outcome]]:
        """The outcomes of one batch."""
        yield from ((p.job, p.outcome) for p in prepared if p.outcome is not None)
        ready = [p for p in prepared if p.outcome is None]
        cases = [case for p in ready for case in p.cases]
        if not cases:
            return
        try:
            analyses = engine.infer(cases)
        except InferenceError as error:
            log.warning("batch_failed engine=%s jobs=%d", engine.settings.name, len(ready))
            for p in ready:
                yield p.job, RetryAfter(seconds=RETRY_SECONDS, reason=str(error))
            return
        except Exception as error:
            # Engines run foreign code, which raises what it likes; each job gets its own outcome from that.
            kind = type(error).__name__
            log.error(
                "inference_failed engine=%s jobs=%d error=%s place=%s",
                engine.settings.name,
                len(ready),
                kind,
                raised_at(error),
            )
            reason = f"the engine failed on this input ({kind}): see the log"
            if is_out_of_memory(error):
                reason = TOO_LITTLE_MEMORY
        else:
            position = 0
            for p in ready:
                mine = analyses[position : position + len(p.cases)]
                position += len(p.cases)
                yield p.job, self._write(p.job, mine)
            return
        # Only here, where the error is gone: its frames hold what the batch has on the device.
        yield from self._infer_smaller(engine, ready, reason)

    def _infer_smaller(
        self, engine: Engine, ready: Sequence[Prepared], reason: str
    ) -> Iterator[tuple[Job, Outcome]]:
        """What becomes of a batch that failed: halves of it, or the failure of its only job."""
        check_device(engine.device)
        if len(ready) > 1:
            middle = len(ready) // 2
            yield from self._infer(engine, ready[:middle])
            yield from self._infer(engine, ready[middle:])
            return
        yield ready[0].job, Failed(reason=reason)

    def _prepare(self, engine: Engine, job: Job) -> Prepared:
        wanted = set(job.inputs)
        instances = {
            i.sop_instance_uid: i
            for i in self.index.instances(job.study_instance_uid, job.series_instance_uid)
            if i.sop_instance_uid in wanted
        }
        missing = wanted - instances.keys()
        if missing:
            return Prepared(
                job=job, outcome=Failed(reason=f"{len(missing)} of {len(wanted)} inputs are not indexed")
            )
        patients = {_text(instances[uid].attributes.get("PatientID")) for uid in job.inputs}
        if len(patients) > 1:
            skipped = Skipped(reason=mixed_patients(len(patients)), model_version=engine.model.version)
            return Prepared(job=job, outcome=skipped)
        try:
            read = engine.prepare([self.files.local(instances[uid].path) for uid in job.inputs])
        except OSError as error:
            log.warning("inputs_not_read job=%d error=%s", job.id, error.strerror)
            reason = f"the inputs cannot be read: {error.strerror}"
            return Prepared(job=job, outcome=RetryAfter(seconds=DISK.pause(job.attempts), reason=reason))
        except Exception as error:
            # Preprocessing runs foreign code on foreign data; one input's fault is that job's alone.
            log.error(
                "prepare_failed job=%d error=%s place=%s", job.id, type(error).__name__, raised_at(error)
            )
            reason = f"the inputs cannot be prepared ({type(error).__name__})"
            return Prepared(job=job, outcome=Failed(reason=reason))
        cases = tuple(item for item in read if not isinstance(item, Refusal))
        if not cases:
            reasons = dict.fromkeys(item.reason for item in read if isinstance(item, Refusal))
            return Prepared(
                job=job, outcome=Skipped(reason="; ".join(reasons), model_version=engine.model.version)
            )
        return Prepared(job=job, cases=cases)

    def _write(self, job: Job, analyses: Sequence[Analysis]) -> Outcome:
        started = time.perf_counter()
        version = analyses[0].model.version
        reason = nothing_left(analyses)
        if reason is not None:
            return Skipped(reason=reason, model_version=version)
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
        )
        try:
            written = write_results(analyses, context)
            results = tuple(artifacts.store(item, job, self.files) for item in written)
        except OSError as error:
            log.warning("results_not_written job=%d error=%s", job.id, error.strerror)
            reason = f"the results cannot be written: {error.strerror}"
            return RetryAfter(seconds=DISK.pause(job.attempts), reason=reason)
        except Exception as error:
            # The report library refuses odd but legal source headers in many ways; the job is kept with the reason.
            log.warning(
                "report_failed job=%d error=%s place=%s", job.id, type(error).__name__, raised_at(error)
            )
            return Failed(reason=f"the report cannot be written from this source ({type(error).__name__})")
        advised = [a.review_advised for a in analyses if a.review_advised]
        summary: dict[str, Any] = {
            **stage_summary(analyses),
            "write_ms": round(1000 * (time.perf_counter() - started), 1),
            "review_advised": advised[0] if advised else None,
        }
        return Done(model_version=version, results=results, summary=summary, review_advised=bool(advised))

    def _predecessor(self, job: Job) -> PredecessorReport | None:
        former = job.predecessor_id
        while former is not None:
            for result in self.results.of_job(former):
                if result.kind == "sr":
                    return PredecessorReport(
                        study_instance_uid=result.study_instance_uid,
                        series_instance_uid=result.series_instance_uid,
                        sop_class_uid=result.sop_class_uid,
                        sop_instance_uid=result.sop_instance_uid,
                    )
            before = self.queue.get(former)
            former = before.predecessor_id if before is not None else None
        return None


def check_device(name: str) -> None:
    """See that an engine's device still works in this process.

    Raises:
        DeviceLost: it does not.
    """
    # Without torch no device but CUDA can have been used here.
    if name.startswith("cuda") or "torch" in sys.modules:
        from inference.running.device import check_answers

        check_answers(name)


def _text(value: str | list[str] | None) -> str:
    return "" if value is None else "\\".join([value] if isinstance(value, str) else value).strip()


def series_number(earlier_jobs: int) -> int:
    """Series Number of a job's report, far from those of modalities; ten for each job of the study.

    ``earlier_jobs`` is how many the study has before it, so that a rerun gets the same.
    """
    return 9000 + 10 * earlier_jobs
