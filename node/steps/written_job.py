"""The last step of a job in a stage process: its results are written to files, but not yet made durable."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

from db.records import Done, Failed, Job, Outcome, RetryAfter, Skipped
from db.retry import DISK, ENGINE
from handlers.spool.stored_files import StoredFiles, UnsyncedFile, UnsyncedFiles
from inference.findings import Analysis, Refusal
from inference.offline.output import stage_summary
from node.line.work import Cause, Failure, Result
from node.steps import artifacts
from node.steps.reports import written_objects
from sr_writer import ReportContext

log = logging.getLogger("overread.pipeline")


@dataclass(frozen=True, kw_only=True)
class WrittenJob:
    """The outcome of a job, and the files that have to be made durable before it is recorded."""

    outcome: Outcome
    files: tuple[UnsyncedFile, ...] = ()


@dataclass(frozen=True, kw_only=True)
class WriteJob:
    """Writes the results of one job, from the results of its cases."""

    job: Job
    context: ReportContext
    data_folder: Path
    version: str
    """Of the model."""

    def __call__(self, results: list[Result]) -> WrittenJob:
        """The outcome. One failure fails the job; it is skipped only if all cases were refused."""
        for result in results:
            if isinstance(result, Failure):
                return WrittenJob(outcome=outcome_of(result, self.job.attempts))
        analyses = [result for result in results if isinstance(result, Analysis)]
        if analyses:
            return self._write(analyses)
        reasons = dict.fromkeys(result.reason for result in results if isinstance(result, Refusal))
        return WrittenJob(outcome=Skipped(reason="; ".join(reasons), model_version=self.version))

    def _write(self, analyses: list[Analysis]) -> WrittenJob:
        files = UnsyncedFiles(StoredFiles(self.data_folder))
        try:
            written = written_objects(analyses, self.context)
            if isinstance(written, Refusal):
                return WrittenJob(outcome=Skipped(reason=written.reason, model_version=self.version))
            if isinstance(written, Failure):
                return WrittenJob(outcome=outcome_of(written, self.job.attempts))
            results = tuple(artifacts.store(item, self.job, files) for item in written)
        except OSError as error:
            files.discard()
            return WrittenJob(outcome=not_written(self.job, error))
        advised = [a.review_advised for a in analyses if a.review_advised]
        summary = {**stage_summary(analyses), "review_advised": advised[0] if advised else None}
        done = Done(
            model_version=self.version, results=results, summary=summary, review_advised=bool(advised)
        )
        return WrittenJob(outcome=done, files=tuple(files.written))


def not_written(job: Job, error: OSError) -> RetryAfter:
    """The outcome of a job whose files cannot be written or made durable now."""
    log.warning("results_not_written job=%d error=%s", job.id, error.strerror)
    reason = f"the results cannot be written: {error.strerror}"
    return RetryAfter(seconds=DISK.pause(job.attempts), reason=reason)


def outcome_of(failure: Failure, attempts: int) -> Outcome:
    """The outcome of a job with a failure: failed for good, or tried again after a pause."""
    if failure.cause is Cause.INPUT:
        return Failed(reason=failure.reason)
    policy = DISK if failure.cause is Cause.DISK else ENGINE
    return RetryAfter(seconds=policy.pause(attempts), reason=failure.reason)
