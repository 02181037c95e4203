"""Turns analyses into the objects of one report, or says why there is none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from inference.checking.plausibility import reason_nothing_left
from inference.findings import Analysis, Refusal
from node.errors import raised_at
from node.line.work import Cause, Failure
from sr_writer import ReportContext, WrittenObject, write_results

log = logging.getLogger("overread.reports")


def written_objects(
    analyses: Sequence[Analysis], context: ReportContext
) -> list[WrittenObject] | Refusal | Failure:
    """The objects of the report on these analyses: refused if nothing plausible is left to report.

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
        # The report library refuses some odd but legal source headers, with many kinds of errors.
        kind = type(error).__name__
        log.warning("report_failed engine=%s error=%s place=%s", context.engine_name, kind, raised_at(error))
        reason = f"the report cannot be written from this source ({kind})"
        return Failure(path=path, reason=reason, cause=Cause.INPUT)


def series_number(earlier_jobs: int) -> int:
    """The Series Number of a job's report: 9000 and up, ten for each job, far from the numbers of modalities.

    Args:
        earlier_jobs: how many jobs of the study were created before, so that a rerun gets the same number.
    """
    return 9000 + 10 * earlier_jobs
