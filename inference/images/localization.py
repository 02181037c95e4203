"""Where a network's small map lies: on the picture's grid, and as polygons in the source image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.findings import Region
from inference.images.preprocessing import Field
from inference.images.resampling import resample, triangle_axis

REGION_LEVEL = 0.5  # share of the map's maximum
REGION_GRID = 128  # cells along each side of the field


@dataclass(frozen=True, kw_only=True)
class LocatedMap:
    """A map of a part of an image."""

    values: NDArray[np.float32]
    """In [0, 1], shape (rows, columns)."""
    field: Field
    """The part of the image that the map covers."""


def heatmap_values(
    small: NDArray[np.float32], field: Field, source_shape: tuple[int, int], picture_shape: tuple[int, int]
) -> NDArray[np.float32]:
    """A map of the network's field, resampled to the picture's grid.

    Args:
        small: the map, shape (rows, columns).
        field: the part of the source image that the map covers.
        source_shape: rows and columns of the source image.
        picture_shape: rows and columns of the picture, which shows the same at another size.

    Returns:
        Values in [0, 1] of shape ``picture_shape``, 0 outside of the field.
    """
    values = np.zeros(picture_shape, dtype=np.float32)
    top, bottom = _scaled_range(field.row, field.rows, source_shape[0], picture_shape[0])
    left, right = _scaled_range(field.column, field.columns, source_shape[1], picture_shape[1])
    part = values[top:bottom, left:right]
    # Few cells become many pixels: two small matrix products need no second array of the picture's size.
    rows = triangle_axis(small.shape[0], bottom - top).matrix()
    columns = triangle_axis(small.shape[1], right - left).matrix()
    np.matmul(rows @ small, columns.T, out=part)
    np.clip(part, 0.0, 1.0, out=part)
    return values


def region_of(small: NDArray[np.float32], field: Field) -> Region | None:
    """The convex outline of the hottest part of a map, in pixels of the source image; None if the map is all 0.

    The hottest part holds the maximum and everything connected to it that reaches ``REGION_LEVEL`` of the maximum.
    """
    axis_rows = triangle_axis(small.shape[0], REGION_GRID)
    axis_columns = triangle_axis(small.shape[1], REGION_GRID)
    values = resample(small, axis_rows, axis_columns)
    peak = float(values.max())
    if peak <= 0.0:
        return None
    hottest = _connected(values >= REGION_LEVEL * peak, int(values.argmax()))
    points = _convex_hull(_corners(hottest))
    cell = (field.columns / REGION_GRID, field.rows / REGION_GRID)
    return Region(points=(points * cell + (field.column, field.row)).astype(np.float32))


def _scaled_range(start: int, size: int, source: int, picture: int) -> tuple[int, int]:
    first = min(round(start * picture / source), picture - 1)
    return first, max(first + 1, min(picture, round((start + size) * picture / source)))


def _connected(mask: NDArray[np.bool_], seed: int) -> NDArray[np.bool_]:
    """The part of a mask that is connected by cell sides to the cell with the flat index ``seed``."""
    from scipy import ndimage  # only here, because planning loads this module and needs no scipy

    labelled, _ = ndimage.label(mask)
    return np.asarray(labelled == labelled.flat[seed])


def _corners(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The outer corners (column, row) of the first and last cell of each row of a mask."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask[rows].argmax(axis=1)
    last = mask.shape[1] - mask[rows, ::-1].argmax(axis=1)
    corners = [np.stack([column, row], axis=1) for column in (first, last) for row in (rows, rows + 1)]
    return np.unique(np.concatenate(corners), axis=0).astype(np.float64)


def _convex_hull(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The convex hull of points sorted by their first coordinate (Andrew's monotone chain), shape (n, 2)."""

    def chain(ordered: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        hull: list[NDArray[np.float64]] = []
        for point in ordered:
            while len(hull) >= 2 and _turn(hull[-2], hull[-1], point) <= 0:
                hull.pop()
            hull.append(point)
        return hull[:-1]

    return np.array(chain(points) + chain(points[::-1]))


def _turn(origin: NDArray[np.float64], middle: NDArray[np.float64], point: NDArray[np.float64]) -> float:
    """Twice the signed area of the triangle, positive for a left turn."""
    first, second = middle - origin, point - origin
    return float(first[0] * second[1] - first[1] * second[0])
