"""Windowing, clipping, normalisation and resizing of modality values.

Clipping and z-scores are those of MONAI's ``ScaleIntensityRange`` and ``NormalizeIntensity``, which load torch.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from inference.images.resampling import linear_axis, resample, triangle_axis

Normalisation = Literal["minmax", "zscore", "none"]
Values = NDArray[np.float32]

_AT_ONCE = 1 << 18
"""Values that are summed in double precision at a time, so that a volume needs no copy in that precision."""


def clipped(values: NDArray[np.generic], low: float, high: float) -> Values:
    """Values scaled so that ``low`` is 0 and ``high`` is 1, and clipped to [0, 1]."""
    scaled = values.astype(np.float32)
    scaled -= np.float32(low)
    scaled /= np.float32(high - low)
    return np.clip(scaled, 0, 1, out=scaled)


def windowed(values: NDArray[np.generic], centre: float, width: float) -> Values:
    """Values in a window scaled to [0, 1]: centre 40 and width 80 are 0 to 80 Hounsfield units."""
    return clipped(values, centre - width / 2, centre + width / 2)


def z_scored(values: NDArray[np.floating]) -> Values:
    """Values minus their mean, divided by their standard deviation; all 0 if all values are equal."""
    scored = values.astype(np.float32)
    flat = scored.reshape(-1)
    parts = [flat[start : start + _AT_ONCE] for start in range(0, flat.size, _AT_ONCE)]
    mean = sum(float(part.sum(dtype=np.float64)) for part in parts) / flat.size
    squares = 0.0
    for part in parts:
        distances = part.astype(np.float64) - mean
        squares += float(np.dot(distances, distances))
    deviation = (squares / flat.size) ** 0.5
    scored -= np.float32(mean)
    scored /= np.float32(deviation) or np.float32(1)
    return scored


def network_input(
    values: NDArray[np.generic], low: float, high: float, normalisation: Literal["minmax", "zscore"]
) -> Values:
    """Values as ``clipped`` gives them, then z-scored if ``normalisation`` says so."""
    scaled = clipped(values, low, high)
    return z_scored(scaled) if normalisation == "zscore" else scaled


def resized(picture: Values, size: int, resize: Literal["antialias", "linear"] = "antialias") -> Values:
    """A slice resized to ``size`` x ``size`` pixels by linear interpolation; "antialias" averages if it shrinks."""
    rows, columns = picture.shape
    if (rows, columns) == (size, size):
        return picture
    axis = triangle_axis if resize == "antialias" else linear_axis
    return resample(picture, axis(rows, size), axis(columns, size))
