"""The objects of one job: the report first, then its overlays, then its segmentations."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from inference.findings import Analysis, Detection, Finding, Heatmap
from sr_writer.context import ReportContext, WrittenObject
from sr_writer.overlay import overlay_pixels, write_overlay
from sr_writer.report import Overlays, write_report
from sr_writer.segmentation import write_segmentation
from sr_writer.source import SourceHeader


def write_results(analyses: Sequence[Analysis], context: ReportContext) -> list[WrittenObject]:
    """One Structured Report on all analyses of a job, one overlay for each heat map, and segmentations.

    The analyses are of one study and one model; the report stands first, the overlays follow in the
    order of the analyses and their findings, as one series. The same arguments make the same objects.

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
        for shown, finding, heatmap, title, detection in _pictures(analysis):
            number += 1
            overlay = write_overlay(
                shown, finding, heatmap, source, context, number=number, title=title, detection=detection
            )
            key = finding.label.name if detection is None else detection.number
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
    """The overlays of an analysis as RGB pictures, for sources that are not DICOM."""
    for shown, finding, heatmap, title, detection in _pictures(analysis):
        yield overlay_pixels(shown, finding, heatmap, engine_name, title, detection)


def _pictures(analysis: Analysis) -> Iterator[tuple[Analysis, Finding, Heatmap, str, Detection | None]]:
    """What gets an overlay: the view, the finding, its heat map, a title, and the lesion that it shows."""
    for finding in analysis.findings:
        if finding.heatmap is not None:
            yield analysis, finding, finding.heatmap, "", None
    detections = {detection.number: detection for detection in analysis.detections}
    for image in analysis.key_images:
        shown = replace(analysis, source=image.source, picture=image.picture)
        finding = Finding(
            label=image.label,
            logit=0.0,
            probability=image.certainty,
            calibrated_probability=image.certainty,
        )
        detection = None if image.detection is None else detections[image.detection]
        yield shown, finding, image.heatmap, image.title, detection
