"""Turns jobs into work for the line, and finished work into outcomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from time import perf_counter

from db.database import Database
from db.index import Index
from db.queue import Queue
from db.records import Done, Job, Outcome
from db.results import Results
from handlers.spool.stored_files import StoredFiles, UnsyncedFile
from inference.engine import Engine
from inference.findings import Refusal, mixed_patients
from node.configuration.tables import EngineTable
from node.line.work import Cause, Failure, Inputs, Work
from node.steps.artifacts import folder_of
from node.steps.reports import series_number
from node.steps.written_job import WriteJob, WrittenJob, not_written, outcome_of
from sr_writer import OverlayCompression, PredecessorReport, ReportContext

JobWork = Work[Job, WrittenJob]


class Pipeline:
    """The jobs of one data folder and database. Thread-safe."""

    def __init__(
        self, database: Database, data_dir: Path, overlay_compression: OverlayCompression = "none"
    ) -> None:
        self.index = Index(database)
        self.queue = Queue(database)
        self.results = Results(database)
        self.files = StoredFiles(data_dir)
        self.overlay_compression = overlay_compression

    def work(self, engine: Engine, table: EngineTable, job: Job) -> JobWork:
        """A job as work for the line: where its files are, and how its results are written.

        Files that an earlier attempt left unfinished are removed.
        """
        version = engine.model.version
        seed = (
            job.study_instance_uid,
            job.series_instance_uid,
            str(job.engine),
            version,
            job.inputs_digest,
            str(job.revision),
        )
        context = ReportContext(
            job_seed="|".join(seed),
            engine_name=str(job.engine),
            content_datetime=job.created_at,
            series_number=series_number(self.queue.earlier_jobs(job)),
            predecessor=self._predecessor(job),
            overlay_compression=self.overlay_compression,
        )
        return Work(
            item=job,
            engine=engine,
            inputs=self._inputs(job),
            finish=WriteJob(job=job, context=context, data_folder=self.files.root, version=version),
            priority=job.priority,
            most_in_batch=table.max_batch or engine.batch_size,
            longest_wait=table.max_wait_ms / 1000,
            deadline_seconds=table.deadline_seconds,
        )

    def outcomes(self, works: Sequence[JobWork]) -> list[tuple[Job, Outcome]]:
        """The outcome of each finished work, after the files of all of them were made durable together."""
        started = perf_counter()
        failed = self._put_files(works)
        sync_ms = 1000 * (perf_counter() - started)
        return [(work.item, _outcome(work, failed.get(work.number), sync_ms)) for work in works]

    def _put_files(self, works: Sequence[JobWork]) -> dict[int, OSError]:
        """Make the files of works durable together; the errors of those for which that fails, by their numbers."""
        try:
            self.files.put_all([file for work in works for file in _files_of(work)])
            return {}
        except OSError as error:
            if len(works) == 1:
                self.files.discard(_files_of(works[0]))
                return {works[0].number: error}
        # One job's files must not fail another one.
        return {number: error for work in works for number, error in self._put_files([work]).items()}

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
            if job.attempts > 1:
                self.files.clear_up(folder_of(job))
            files = [self.files.local(instances[uid].path) for uid in job.inputs]
        except OSError as error:
            reason = f"the inputs cannot be read: {error.strerror}"
            return Failure(path=self.files.root, reason=reason, cause=Cause.DISK)
        patients = {_value_text(instances[uid].attributes.get("PatientID")) for uid in job.inputs}
        return Refusal(path=files[0], reason=mixed_patients(len(patients))) if len(patients) > 1 else files

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


def _files_of(work: JobWork) -> tuple[UnsyncedFile, ...]:
    return work.made.files if isinstance(work.made, WrittenJob) else ()


def _outcome(work: JobWork, error: OSError | None, sync_ms: float) -> Outcome:
    job = work.item
    if error is not None:
        return not_written(job, error)
    if isinstance(work.made, Failure):
        return outcome_of(work.made, job.attempts)
    assert work.made is not None
    outcome = work.made.outcome
    if not isinstance(outcome, Done):
        return outcome
    times = {name: round(value, 1) for name, value in asdict(replace(work.times, sync_ms=sync_ms)).items()}
    return replace(outcome, summary={**outcome.summary, **times})


def _value_text(value: str | list[str] | None) -> str:
    """An attribute's value as DICOM writes it, with backslashes between several."""
    return "" if value is None else "\\".join([value] if isinstance(value, str) else value).strip()
