"""Slices and their heat maps as people see them, with square pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.images.resampling import resample, triangle_axis
from inference.reading.frame import Frame

SHORTEST_SIDE = 384
"""Pictures of small slices are enlarged until their longer side has this many pixels."""
LONGEST_SIDE = 1024
"""Pictures of large slices are reduced until their longer side has this many pixels."""


def slice_picture(
    values: NDArray[np.generic], frame: Frame, window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """A slice as a person sees it; ``window`` is centre and width, None the range of the values."""
    grey = values.astype(np.float32)
    if window is None:
        low, high = np.percentile(grey, (0.5, 99.5))
    else:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    windowed = np.clip((grey - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    picture = resample(
        windowed, *(triangle_axis(n, m) for n, m in zip(windowed.shape, picture_shape(frame), strict=True))
    )
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def picture_shape(frame: Frame) -> tuple[int, int]:
    """Rows and columns of a slice's picture, which has square pixels."""
    height, width = frame.rows * frame.plane.spacing[0], frame.columns * frame.plane.spacing[1]
    scale = max(frame.rows, frame.columns) / max(height, width)
    longest = max(height, width) * scale
    scale *= min(max(1.0, SHORTEST_SIDE / longest), LONGEST_SIDE / longest)
    return max(1, round(height * scale)), max(1, round(width * scale))


def heat_picture(heat: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """A heat map of a slice, resampled to the pixels of its picture and clipped to [0, 1]."""
    shape = picture_shape(frame)
    axes = (triangle_axis(n, m) for n, m in zip(heat.shape, shape, strict=True))
    return np.clip(resample(heat.astype(np.float32), *axes), 0, 1)
