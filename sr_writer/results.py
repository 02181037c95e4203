"""The objects of one job: the report first, then its overlays."""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset

from inference.findings import Analysis
from sr_writer.context import ReportContext, WrittenObject
from sr_writer.overlay import write_overlay
from sr_writer.report import write_report
from sr_writer.source import SourceHeader


def write_results(analyses: Sequence[Analysis], context: ReportContext) -> list[WrittenObject]:
    """One Structured Report on all analyses of a job and one overlay for each of their heat maps.

    The analyses are of one study and one model; the report stands first, the overlays follow in the
    order of the analyses and their findings, as one series. The same arguments make the same objects.

    Raises:
        ValueError: there is no analysis or finding, or the analyses are of several studies or models.
        OSError: the file of a source image cannot be read.
        pydicom.errors.InvalidDicomError: the file of a source image is not DICOM.
    """
    if not any(analysis.findings for analysis in analyses):
        raise ValueError("a report needs at least one analysis with a finding")
    if len({analysis.source.study_instance_uid for analysis in analyses}) > 1:
        raise ValueError("a report is about one study; write one for each study")
    if len({analysis.model for analysis in analyses}) > 1:
        raise ValueError("a report names one model; write one for each model")
    sources = [SourceHeader(analysis.source) for analysis in analyses]
    overlays: dict[tuple[int, str], Dataset] = {}
    for index, (analysis, source) in enumerate(zip(analyses, sources, strict=True)):
        for finding in analysis.findings:
            if finding.heatmap is not None:
                overlays[index, finding.label.name] = write_overlay(
                    analysis, finding, finding.heatmap, source, context, number=len(overlays) + 1
                )
    report = write_report(analyses, sources, overlays, context)
    return [
        WrittenObject(kind="sr", dataset=report),
        *(WrittenObject(kind="overlay", dataset=overlay) for overlay in overlays.values()),
    ]
