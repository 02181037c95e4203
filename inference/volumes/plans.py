"""Normalisation and resampling as nnU-Net's plans define them.

Axes are (slice, row, column), spacings in mm in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates
from skimage.transform import resize

ANISOTROPY = 3.0
"""A volume whose coarsest spacing is more than this many times its finest is resampled plane by plane."""

Spacing = tuple[float, float, float]


def normalised(
    values: NDArray[np.float32], scheme: str, intensity: Mapping[str, float]
) -> NDArray[np.float32]:
    """CT: clipped to percentiles of the training data and z-scored with its figures; MR: z-scored by itself."""
    if scheme == "CTNormalization":
        clipped = np.clip(values, intensity["percentile_00_5"], intensity["percentile_99_5"])
        return ((clipped - np.float32(intensity["mean"])) / np.float32(max(intensity["std"], 1e-8))).astype(
            np.float32
        )
    if scheme == "ZScoreNormalization":
        deviation = max(float(values.std()), 1e-8)
        return ((values - values.mean()) / np.float32(deviation)).astype(np.float32)
    return values


def resampled(
    values: NDArray[np.float32],
    spacing: Spacing,
    wanted: Spacing,
    *,
    shape: tuple[int, int, int] | None = None,
    order: int = 3,
) -> NDArray[np.float32]:
    """Values at another spacing; splines of an order, across slices the nearest where they are thick.

    ``shape`` is the result's, else round(n x spacing / wanted) along each axis.
    """
    target = shape or tuple(
        max(1, round(n * s / w)) for n, s, w in zip(values.shape, spacing, wanted, strict=True)
    )
    if target == values.shape:
        return values
    options = {"order": order, "mode": "edge", "anti_aliasing": False, "preserve_range": True}
    thick = _thick_axis(spacing) if _thick_axis(spacing) is not None else _thick_axis(wanted)
    if thick is None:
        return np.asarray(resize(values, target, **options), dtype=np.float32)
    planes = np.moveaxis(values, thick, 0)
    plane_shape = tuple(n for axis, n in enumerate(target) if axis != thick)
    resized = np.stack([resize(plane, plane_shape, **options) for plane in planes]).astype(np.float32)
    if target[thick] != len(planes):
        scale = len(planes) / target[thick]
        at = scale * (np.arange(target[thick]) + 0.5) - 0.5
        grid = np.meshgrid(at, *(np.arange(n) for n in plane_shape), indexing="ij")
        resized = map_coordinates(resized, grid, order=0, mode="nearest")
    return np.ascontiguousarray(np.moveaxis(resized, 0, thick))


def _thick_axis(spacing: Spacing) -> int | None:
    if max(spacing) / min(spacing) <= ANISOTROPY:
        return None
    return int(np.argmax(spacing))
