"""The objects of one job: the report, its overlays and its segmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.findings import Analysis
from sr_writer.context import ReportContext, WrittenObject
from sr_writer.overlay import draw, write_overlay
from sr_writer.report import Overlays, write_report
from sr_writer.segmentation import write_segmentation
from sr_writer.shown import shown_pictures
from sr_writer.source import SourceHeader


def write_results(analyses: Sequence[Analysis], context: ReportContext) -> list[WrittenObject]:
    """Make one Structured Report on all analyses of a job, one overlay for each heat map, and segmentations.

    The analyses must be of one study and one model. Equal arguments make equal objects.

    Returns:
        The report, then the overlays in the order of the analyses and their findings, then the segmentations.

    Raises:
        ValueError: there is nothing to report, or the analyses are of several studies or models.
        OSError: the file of a source image cannot be read.
        pydicom.errors.InvalidDicomError: the file of a source image is not DICOM.
    """
    if not any(analysis.findings or analysis.segmentation for analysis in analyses):
        raise ValueError("a report needs at least one analysis with a finding or a segmentation")
    if len({analysis.source.study_instance_uid for analysis in analyses}) > 1:
        raise ValueError("a report is about one study; write one for each study")
    if len({analysis.model for analysis in analyses}) > 1:
        raise ValueError("a report names one model; write one for each model")
    sources = [SourceHeader(analysis.source) for analysis in analyses]
    overlays: Overlays = {}
    number = 0
    for index, (analysis, source) in enumerate(zip(analyses, sources, strict=True)):
        for shown in shown_pictures(analysis):
            number += 1
            overlay = write_overlay(analysis, shown, source, context, number=number)
            key = shown.label.name if shown.detection is None else shown.detection.number
            overlays.setdefault((index, key), []).append(overlay)
    segmentations: dict[int, Dataset] = {}
    for index, (analysis, source) in enumerate(zip(analyses, sources, strict=True)):
        if analysis.segmentation is not None:
            segmentations[index] = write_segmentation(
                analysis, analysis.segmentation, source, context, index=index, number=len(segmentations) + 1
            )
    report = write_report(analyses, sources, overlays, segmentations, context)
    return [
        WrittenObject(kind="sr", dataset=report),
        *(WrittenObject(kind="overlay", dataset=o) for several in overlays.values() for o in several),
        *(WrittenObject(kind="segmentation", dataset=s) for s in segmentations.values()),
    ]


def overlay_pictures(analysis: Analysis, engine_name: str) -> Iterator[NDArray[np.uint8]]:
    """The overlays of an analysis as RGB pictures of shape (rows, columns, 3), for sources that are not DICOM."""
    for shown in shown_pictures(analysis):
        yield np.asarray(draw(analysis, shown, engine_name))
