"""Analyses to the objects of one report, or why there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from inference.checking.plausibility import reason_nothing_left
from inference.findings import Analysis, Refusal
from node.errors import raised_at
from node.steps.batches import Cause, Failure
from sr_writer import ReportContext, WrittenObject, write_results

log = logging.getLogger("overread.reports")


def written_objects(
    analyses: Sequence[Analysis], context: ReportContext
) -> list[WrittenObject] | Refusal | Failure:
    """Everything that is written of the analyses of one report.

    Raises:
        OSError: the file of a source image cannot be read now.
    """
    path = analyses[0].source.path
    reason = reason_nothing_left(analyses)
    if reason is not None:
        return Refusal(path=path, reason=reason)
    try:
        return write_results(analyses, context)
    except OSError:
        raise
    except Exception as error:
        # The report library refuses odd but legal source headers in many ways, each its own case.
        kind = type(error).__name__
        log.warning("report_failed engine=%s error=%s place=%s", context.engine_name, kind, raised_at(error))
        reason = f"the report cannot be written from this source ({kind})"
        return Failure(path=path, reason=reason, cause=Cause.INPUT)


def series_number(earlier_jobs: int) -> int:
    """Series Number of a job's report, far from those of modalities; ten for each job of the study.

    ``earlier_jobs`` is how many the study has before it, so that a rerun gets the same.
    """
    return 9000 + 10 * earlier_jobs
