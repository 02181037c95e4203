"""Axes, cropping, normalisation and resampling as nnU-Net's plans define them.

Unless a function says otherwise, axes are those of the network, and spacings are in mm in the same order.

References: nnunetv2 2.8.1, ``preprocessing`` and ``imageio``; the results here are equal to theirs.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from nibabel.orientations import io_orientation
from numpy.typing import NDArray
from scipy.ndimage import binary_fill_holes, find_objects, map_coordinates
from skimage.transform import resize

from inference.volumes.volume import Grid

ANISOTROPY = 3.0
"""Ratio of the coarsest to the finest spacing above which a volume may be resampled plane by plane."""

Spacing = tuple[float, float, float]
Box = tuple[slice, slice, slice]


def arranged(
    values: NDArray[np.float32], grid: Grid, *, canonical: bool, transpose: tuple[int, int, int]
) -> tuple[NDArray[np.float32], Grid]:
    """Values and their grid, reordered to the axes that a network was trained with.

    Args:
        values: values on ``grid``, axes (slice, row, column).
        grid: where they lie.
        canonical: first turn the axes so that slices run to the head, rows to the front and columns to the
            patient's right, as readers do that reorient to RAS. Otherwise they stay as the series is stacked.
        transpose: then the order of the axes for the network.
    """
    order, backwards = [0, 1, 2], [False, False, False]
    if canonical:
        ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine[:, [2, 1, 0, 3]]
        towards = io_orientation(ras)  # for column, row and slice: the nearest axis of RAS, and 1 or -1
        nearest = [int(np.flatnonzero(towards[:, 0] == axis)[0]) for axis in (2, 1, 0)]
        order = [2 - index for index in nearest]
        backwards = [bool(towards[index, 1] < 0) for index in nearest]
    order, backwards = [order[axis] for axis in transpose], [backwards[axis] for axis in transpose]
    moved = values.transpose(order)
    affine = grid.affine[:, [*order, 3]]
    for axis in np.flatnonzero(backwards):
        affine[:, 3] += affine[:, axis] * (moved.shape[axis] - 1)
        affine[:, axis] *= -1
        moved = np.flip(moved, int(axis))
    return np.ascontiguousarray(moved), Grid(
        affine=affine, shape=(moved.shape[0], moved.shape[1], moved.shape[2])
    )


def nonzero(values: NDArray[np.float32]) -> tuple[Box, NDArray[np.bool_]]:
    """The smallest box around all values that are not 0, and their mask in that box, with holes filled.

    For a volume of zeros, the box is the whole volume.
    """
    mask = binary_fill_holes(values != 0)
    boxes = find_objects(mask.astype(np.uint8))
    box: Box = boxes[0] if boxes else (slice(None), slice(None), slice(None))
    return box, mask[box]


def normalised(
    values: NDArray[np.float32],
    scheme: str,
    intensity: Mapping[str, float],
    mask: NDArray[np.bool_] | None = None,
) -> NDArray[np.float32]:
    """Values normalised by one of nnU-Net's schemes; an unknown scheme leaves them unchanged.

    Args:
        values: the volume.
        scheme: nnU-Net's name. "CTNormalization" clips and z-scores by statistics of the training data,
            "ZScoreNormalization" z-scores by the volume's own.
        intensity: statistics of the training data: mean, std, percentile_00_5, percentile_99_5.
        mask: voxels that a volume's own z-score takes and changes; the others stay as they are.
    """
    if scheme == "CTNormalization":
        clipped = np.clip(values, intensity["percentile_00_5"], intensity["percentile_99_5"])
        return ((clipped - np.float32(intensity["mean"])) / np.float32(max(intensity["std"], 1e-8))).astype(
            np.float32
        )
    if scheme == "ZScoreNormalization":
        inside = np.ones(values.shape, dtype=bool) if mask is None else mask
        mean, deviation = values[inside].mean(), max(float(values[inside].std()), 1e-8)
        return np.where(inside, (values - mean) / np.float32(deviation), values).astype(np.float32)
    if scheme == "RescaleTo01Normalization":
        raised = values - values.min()
        return raised / np.float32(max(float(raised.max()), 1e-8))
    if scheme == "RGBTo01Normalization":
        return values / np.float32(255)
    return values


def resampled(
    values: NDArray[np.float32],
    spacing: Spacing,
    wanted: Spacing,
    *,
    shape: tuple[int, int, int] | None = None,
    order: int = 3,
) -> NDArray[np.float32]:
    """Values resampled to another spacing.

    Along a single coarse axis (``ANISOTROPY``) the nearest plane is taken, otherwise splines are used.

    Args:
        values: the volume.
        spacing: its spacing.
        wanted: spacing of the result.
        shape: shape of the result; None computes round(spacing / wanted x n) along each axis.
        order: order of the splines.
    """
    target = shape or tuple(
        max(1, round(s / w * n)) for n, s, w in zip(values.shape, spacing, wanted, strict=True)
    )
    if target == values.shape:
        return values
    options = {"order": order, "mode": "edge", "anti_aliasing": False, "preserve_range": True}
    coarse = _coarse_axis(spacing, wanted)
    if coarse is None:
        return np.asarray(resize(values, target, **options), dtype=np.float32)
    planes = np.moveaxis(values, coarse, 0)
    plane_shape = tuple(n for axis, n in enumerate(target) if axis != coarse)
    resized = np.stack([resize(plane, plane_shape, **options) for plane in planes]).astype(np.float32)
    if target[coarse] != len(planes):
        scale = len(planes) / target[coarse]
        at = scale * (np.arange(target[coarse]) + 0.5) - 0.5
        grid = np.meshgrid(at, *(np.arange(n) for n in plane_shape), indexing="ij")
        resized = map_coordinates(resized, grid, order=0, mode="nearest")
    return np.ascontiguousarray(np.moveaxis(resized, 0, coarse))


def _coarse_axis(spacing: Spacing, wanted: Spacing) -> int | None:
    """The axis to resample separately: the single coarsest one of the first of two spacings that is anisotropic."""
    for either in (spacing, wanted):
        if max(either) / min(either) > ANISOTROPY:
            coarsest = [axis for axis, mm in enumerate(either) if mm == max(either)]
            return coarsest[0] if len(coarsest) == 1 else None
    return None
