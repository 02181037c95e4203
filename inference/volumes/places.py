"""Where a point or a part of a grid lies in the slices as they were scanned."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.reading.frame import Frame
from inference.volumes.detection import Candidate
from inference.volumes.volume import Grid, Volume


def scanned_voxel(point: NDArray[np.float64], frames: Sequence[Frame]) -> tuple[int, int, int]:
    """(slice, row, column) of the pixel nearest to a point in LPS (mm), in the slices as they were scanned."""
    heights = [abs(float((point - np.array(frame.plane.position)) @ frame.plane.normal)) for frame in frames]
    number = int(np.argmin(heights))
    plane = frames[number].plane
    inside = point - np.array(plane.position)
    row = round(float(inside @ np.array(plane.column_direction)) / plane.spacing[0])
    column = round(float(inside @ np.array(plane.row_direction)) / plane.spacing[1])
    return (
        number,
        min(max(row, 0), frames[number].rows - 1),
        min(max(column, 0), frames[number].columns - 1),
    )


def scanned_position(point: NDArray[np.float64], volume: Volume) -> tuple[float, float, float]:
    """(slice, row, column) of a point in LPS (mm), not rounded, from the first voxel of the first slice."""
    plane = volume.frames[0].plane
    inside = point - np.array(plane.position)
    return (
        float(inside @ plane.normal) / float(np.median(volume.gaps)),
        float(inside @ np.array(plane.column_direction)) / plane.spacing[0],
        float(inside @ np.array(plane.row_direction)) / plane.spacing[1],
    )


def frames_through(frames: Sequence[Frame], nodules: Sequence[Candidate], grid: Grid) -> list[Frame]:
    """The slices that intersect the bounding box of any candidate."""
    normal = frames[0].plane.normal
    spans = []
    for candidate in nodules:
        low = np.array(candidate.corner, dtype=float) - 0.5
        high = low + np.array(candidate.mask.shape)
        corners = np.array(
            [[a, b, c] for a in (low[0], high[0]) for b in (low[1], high[1]) for c in (low[2], high[2])]
        )
        heights = grid.to_patient(corners) @ normal
        spans.append((heights.min(), heights.max()))
    return [
        frame
        for frame in frames
        if any(low <= float(np.array(frame.plane.position) @ normal) <= high for low, high in spans)
    ]
