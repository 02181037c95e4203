"""Windows, clipping and normalisation of modality values, by MONAI's transforms."""

from __future__ import annotations

from typing import Literal

import numpy as np
from monai.transforms.intensity.array import NormalizeIntensity, ScaleIntensityRange
from numpy.typing import NDArray

from inference.images.resampling import linear_axis, resample, triangle_axis

Normalisation = Literal["minmax", "zscore", "none"]
Values = NDArray[np.float32]


def clipped(values: NDArray[np.generic], low: float, high: float) -> Values:
    """Values between two limits as [0, 1]; what lies outside is clipped."""
    return np.asarray(ScaleIntensityRange(low, high, 0.0, 1.0, clip=True)(values), dtype=np.float32)


def windowed(values: NDArray[np.generic], centre: float, width: float) -> Values:
    """Values in a window as [0, 1]: the window 40 / 80 is 0 to 80 Hounsfield units."""
    return clipped(values, centre - width / 2, centre + width / 2)


def z_scored(values: NDArray[np.floating]) -> Values:
    """Values less their mean, over their standard deviation; all 0 where they are all the same."""
    return np.asarray(NormalizeIntensity()(values), dtype=np.float32)


def network_input(
    values: NDArray[np.generic], low: float, high: float, normalisation: Literal["minmax", "zscore"]
) -> Values:
    """Values between two limits as [0, 1], then perhaps less their mean and over their standard deviation."""
    scaled = clipped(values, low, high)
    return z_scored(scaled) if normalisation == "zscore" else scaled


def resized(picture: Values, size: int, resize: Literal["antialias", "linear"] = "antialias") -> Values:
    """A slice at size x size pixels by linear interpolation, ``antialias`` with a wider triangle where it shrinks."""
    rows, columns = picture.shape
    if (rows, columns) == (size, size):
        return picture
    axis = triangle_axis if resize == "antialias" else linear_axis
    return resample(picture, axis(rows, size), axis(columns, size))
