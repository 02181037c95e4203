"""What overlays show: pictures with a heat map, of a whole image or of one slice of a volume."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.findings import Analysis, Detection, Heatmap, Label, Region, SourceImage


@dataclass(frozen=True, kw_only=True)
class ShownPicture:
    """A picture of shape (rows, columns), the heat map over it, and what its legend says."""

    source: SourceImage
    picture: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    label: Label
    certainty: float
    """Certainty of the finding, slice or lesion, in [0, 1]."""
    deviation: float | None = None
    """Standard deviation of the certainty over ensemble members and augmented views, None if there is only one."""
    regions: tuple[Region, ...] = ()
    title: str = ""
    """Names the slice or lesion of a volume."""
    detection: Detection | None = None
    """The lesion in the picture."""


def shown_pictures(analysis: Analysis) -> Iterator[ShownPicture]:
    """Everything in an analysis that gets an overlay: findings with a heat map, then key images of the volume."""
    for finding in analysis.findings:
        if finding.heatmap is not None:
            yield ShownPicture(
                source=analysis.source,
                picture=analysis.picture,
                heatmap=finding.heatmap,
                label=finding.label,
                certainty=finding.calibrated_probability,
                deviation=finding.ensemble_std,
                regions=finding.regions,
            )
    detections = {detection.number: detection for detection in analysis.detections or ()}
    for image in analysis.key_images:
        yield ShownPicture(
            source=image.source,
            picture=image.picture,
            heatmap=image.heatmap,
            label=image.label,
            certainty=image.certainty,
            title=image.title,
            detection=None if image.detection is None else detections[image.detection],
        )
