"""Windowing, clipping, normalisation and resizing of modality values, the first three by MONAI's transforms."""

from __future__ import annotations

from typing import Literal

import numpy as np
from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange
from numpy.typing import NDArray

from inference.images.resampling import linear_axis, resample, triangle_axis

Normalisation = Literal["minmax", "zscore", "none"]
Values = NDArray[np.float32]


def clipped(values: NDArray[np.generic], low: float, high: float) -> Values:
    """Values scaled so that ``low`` is 0 and ``high`` is 1, and clipped to [0, 1]."""
    return np.asarray(ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(values), dtype=np.float32)


def windowed(values: NDArray[np.generic], centre: float, width: float) -> Values:
    """Values in a window scaled to [0, 1]: centre 40 and width 80 are 0 to 80 Hounsfield units."""
    return clipped(values, centre - width / 2, centre + width / 2)


def z_scored(values: NDArray[np.floating]) -> Values:
    """Values minus their mean, divided by their standard deviation; all 0 if all values are equal."""
    return np.asarray(NormalizeIntensity()(values), dtype=np.float32)


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
