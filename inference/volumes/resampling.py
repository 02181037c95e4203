"""Resampling of a stack from the true positions of its slices onto a regular grid, and back.

Slices are parallel, and the grid has their orientation. Each slice is shifted and scaled within its plane. Then
planes between two slices are interpolated along the normal. This undoes a tilted gantry (a shear) and uneven gaps
exactly, with one linear interpolation along each axis.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates

from inference.reading.frame import Frame
from inference.volumes.volume import Affine, Grid, Volume

Cell = TypeVar("Cell", bound=np.generic)


def regular_grid(volume: Volume, spacing: tuple[float, float, float] | None = None) -> Grid:
    """The grid that covers all slices of a volume, in their orientation.

    ``spacing`` is (slice, row, column) in mm. None takes the slices' own spacing and their median gap.
    """
    plane = volume.frames[0].plane
    gaps = volume.gaps
    own = (float(np.median(gaps)) if len(gaps) else 1.0, *plane.spacing)
    chosen = spacing or own
    distances, offsets = volume.stack.distances, volume.stack.offsets
    low = np.array([0.0, *offsets.min(axis=0)])
    extent = np.array(
        [
            distances[-1],
            np.ptp(offsets[:, 0]) + (volume.frames[0].rows - 1) * plane.spacing[0],
            np.ptp(offsets[:, 1]) + (volume.frames[0].columns - 1) * plane.spacing[1],
        ]
    )
    counts = np.floor(extent / np.array(chosen) + 1e-6).astype(int) + 1
    directions = np.stack([plane.normal, np.array(plane.column_direction), np.array(plane.row_direction)], 1)
    affine = np.eye(4)
    affine[:3, :3] = directions * np.array(chosen)
    affine[:3, 3] = np.array(plane.position) + directions @ low
    return Grid(affine=affine, shape=(int(counts[0]), int(counts[1]), int(counts[2])))


def to_grid(volume: Volume, grid: Grid, *, outside: float) -> NDArray[np.float32]:
    """Values of a volume on a grid that ``regular_grid`` made; ``outside`` is the value beyond the slices."""
    plane = volume.frames[0].plane
    start = grid.affine[:3, 3] - np.array(plane.position)
    first = start @ np.array(plane.column_direction), start @ np.array(plane.row_direction)
    spacing = grid.spacing
    rows = first[0] + np.arange(grid.shape[1]) * spacing[1]
    columns = first[1] + np.arange(grid.shape[2]) * spacing[2]
    heights = float(start @ plane.normal) + np.arange(grid.shape[0]) * spacing[0]
    distances, offsets = volume.stack.distances, volume.stack.offsets
    result = np.empty(grid.shape, dtype=np.float32)
    placed: dict[int, NDArray[np.float32]] = {}

    def slice_on_grid(index: int) -> NDArray[np.float32]:
        if index not in placed:
            for old in [key for key in placed if key < index - 1]:
                del placed[old]
            placed[index] = _sample_in_plane(
                volume.values[index],
                (rows - offsets[index, 0]) / plane.spacing[0],
                (columns - offsets[index, 1]) / plane.spacing[1],
                outside,
            )
        return placed[index]

    for number, height in enumerate(heights):
        upper = int(np.searchsorted(distances, height - 1e-6, side="left"))
        if upper < len(distances) and abs(distances[upper] - height) < 1e-6:
            result[number] = slice_on_grid(upper)
            continue
        upper = min(max(upper, 1), len(distances) - 1)
        lower = upper - 1
        weight = np.float32(
            np.clip((height - distances[lower]) / (distances[upper] - distances[lower]), 0, 1)
        )
        below, above = slice_on_grid(lower), slice_on_grid(upper)
        np.multiply(above - below, weight, out=result[number])
        result[number] += below
    return result


def _sample_in_plane(
    values: NDArray[np.floating] | NDArray[np.integer],
    rows: NDArray[np.float64],
    columns: NDArray[np.float64],
    outside: float,
) -> NDArray[np.float32]:
    """Bilinear interpolation of a slice at row and column coordinates, which are in its pixels."""
    along_rows = _interpolate_linearly(np.asarray(values, dtype=np.float32), rows)
    result = np.ascontiguousarray(_interpolate_linearly(along_rows.T, columns).T)
    result[(rows < -0.5) | (rows > values.shape[0] - 0.5)] = outside
    result[:, (columns < -0.5) | (columns > values.shape[1] - 0.5)] = outside
    return result


def _interpolate_linearly(values: NDArray[np.float32], at: NDArray[np.float64]) -> NDArray[np.float32]:
    """Linear interpolation at positions along the first axis; beyond the ends, the end values repeat."""
    whole = np.rint(at)
    inside = np.clip(np.where(np.abs(at - whole) < 1e-6, whole, at), 0, len(values) - 1)
    lower = np.minimum(inside.astype(np.intp), max(len(values) - 2, 0))
    weight = (inside - lower).astype(np.float32)[:, None]
    if not weight.any():
        return values[lower]
    upper = np.minimum(lower + 1, len(values) - 1)
    return np.asarray(values[lower] * (1 - weight) + values[upper] * weight)


def to_frames(
    values: NDArray[Cell], affine: Affine, frames: Sequence[Frame], *, order: int = 0
) -> NDArray[Cell]:
    """An array on a grid, sampled at the pixels of slices, shape (slices, rows, columns); see ``to_planes``."""
    planes = np.stack([frame.plane.affine for frame in frames])
    return to_planes(values, affine, planes, (frames[0].rows, frames[0].columns), order=order)


def to_planes(
    values: NDArray[Cell],
    affine: Affine,
    planes: NDArray[np.float64],
    shape: tuple[int, int],
    *,
    order: int = 0,
) -> NDArray[Cell]:
    """An array on a grid, sampled on planes; shape (planes, rows, columns).

    Pixels outside of the grid are 0. With ``order`` 1, the grid's edge is repeated for one voxel, since the last slice
    may lie a little beyond the grid's last plane.

    Args:
        values: the array on the grid.
        affine: of the grid, from (slice, row, column, 1) to patient coordinates.
        planes: matrices as ``Plane.affine`` gives them, shape (planes, 4, 3).
        shape: rows and columns of each plane.
        order: 0 takes the nearest voxel (for labels), 1 interpolates linearly (for probabilities).
    """
    inverse = np.linalg.inv(affine)
    last = np.array(values.shape) - 1
    result = np.zeros((len(planes), *shape), dtype=values.dtype)
    for target, plane in zip(result, planes, strict=True):
        matrix = (inverse @ plane)[:3]
        row, column = np.ogrid[0 : shape[0], 0 : shape[1]]
        at = [np.broadcast_to(m[0] * row + m[1] * column + m[2], shape) for m in matrix]
        if order == 0:
            indices = [np.rint(a).astype(np.intp) for a in at]
            inside = np.logical_and.reduce(
                [(i >= 0) & (i <= end) for i, end in zip(indices, last, strict=True)]
            )
            target[inside] = values[tuple(i[inside] for i in indices)]
        else:
            map_coordinates(values, np.stack(at), output=target, order=order, mode="nearest")
            beyond = [(a < -1) | (a > end + 1) for a, end in zip(at, last, strict=True)]
            target[np.logical_or.reduce(beyond)] = 0
    return result
