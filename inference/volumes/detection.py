"""Lesions at the peaks of a heat map: their size, shape and intensity.

Axes are (slice, row, column). Positions are voxels of the heat map's grid. Spacings are in mm along the axes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from math import pi
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Spacing = tuple[float, float, float]

BLOCK = 32
"""Edge in voxels of the blocks in which maxima are looked for."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """A local maximum of a heat map; its ``value`` lies in [0, 1]."""

    voxel: tuple[int, int, int]
    value: float


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A peak and the part of the segmentation mask that belongs to it.

    ``centre`` is in voxels. ``extent`` is the size along the axes, in mm. ``mask`` covers the bounding box, whose
    first voxel is ``corner``. ``sphericity`` is 1 for a ball and smaller for other shapes.
    """

    peak: Peak
    centre: tuple[float, float, float]
    extent: tuple[float, float, float]
    volume_mm3: float
    sphericity: float
    corner: tuple[int, int, int]
    mask: NDArray[np.bool_] = field(repr=False)

    @property
    def diameter_mm(self) -> float:
        """Diameter of the ball with the same volume."""
        return float((6 * self.volume_mm3 / pi) ** (1 / 3))


def local_maxima(
    heat: NDArray[np.float32], *, threshold: float, min_distance_mm: float, spacing: Spacing
) -> list[Peak]:
    """Local maxima at or above a threshold, highest first, none too near to a higher one.

    Args:
        heat: the heat map, values in [0, 1].
        threshold: lowest value of a peak.
        min_distance_mm: smallest distance between two peaks, the same along and across slices.
        spacing: of the heat map's voxels.
    """
    reach = [max(1, int(min_distance_mm / s / np.sqrt(3))) for s in spacing]
    voxels = _highest_first(heat, maxima(heat, reach, threshold))
    return _peaks(heat, _drop_near_voxels(voxels, min_distance_mm, spacing))


def peaks_after_suppression(
    heat: NDArray[np.float32], *, threshold: float, min_distance_mm: float, spacing: Spacing
) -> list[Peak]:
    """Voxels that non-maximum suppression leaves of all at or above a threshold, highest first.

    Each voxel suppresses the lower ones nearer than ``min_distance_mm``. Unlike with ``local_maxima``, a voxel on
    the slope of a wide peak remains if it is far enough from the top.
    """
    voxels = _highest_first(heat, np.argwhere(heat >= threshold))
    return _peaks(heat, _drop_near_voxels(voxels, min_distance_mm, spacing))


def filter_maxima(heat: NDArray[np.float32], *, threshold: float, kernel: int) -> list[Peak]:
    """Peaks as the PIVOT system defines them: voxels above 0 that equal the output of a maximum filter.

    ``kernel`` is the odd side of the filter in voxels. Outside of the map, the filter sees 0.
    """
    voxels = maxima(heat, [kernel // 2] * 3, threshold)
    return _peaks(heat, _highest_first(heat, voxels[heat[tuple(voxels.T)] > 0]))


def maxima(heat: NDArray[np.float32], reach: Sequence[int], threshold: float) -> NDArray[np.intp]:
    """Voxels at or above a threshold that no voxel within ``reach`` along the axes exceeds, shape (n, 3).

    Outside of the map is 0. Only blocks with a voxel above the threshold are filtered, and these are few.
    """
    found = [np.empty((0, 3), dtype=np.intp)]
    for corner in product(*(range(0, n, BLOCK) for n in heat.shape)):
        block = heat[tuple(slice(c, c + BLOCK) for c in corner)]
        above = block >= threshold
        if not above.any():
            continue
        low = [max(0, c - r) for c, r in zip(corner, reach, strict=True)]
        around = tuple(
            slice(start, c + n + r) for start, c, n, r in zip(low, corner, block.shape, reach, strict=True)
        )
        highest = ndimage.maximum_filter(heat[around], [2 * r + 1 for r in reach], mode="constant", cval=0.0)
        inner = tuple(slice(c - a, c - a + n) for c, a, n in zip(corner, low, block.shape, strict=True))
        found.append(np.argwhere(above & (block == highest[inner])) + corner)
    voxels = np.concatenate(found)
    return voxels[np.lexsort(voxels.T[::-1])]


def _highest_first(heat: NDArray[np.float32], voxels: NDArray[np.intp]) -> NDArray[np.intp]:
    """Voxels by falling value; those of equal value stay in their order."""
    return voxels[np.argsort(-heat[tuple(voxels.T)], kind="stable")]


def _drop_near_voxels(voxels: NDArray[np.intp], min_distance_mm: float, spacing: Spacing) -> NDArray[np.intp]:
    """Voxels in the given order, without those nearer than a distance to an earlier one that remains."""
    places = voxels * np.array(spacing)
    left = np.arange(len(voxels))
    kept = []
    while len(left):
        kept.append(left[0])
        distances = np.linalg.norm(places[left] - places[left[0]], axis=1)
        left = left[distances >= min_distance_mm]
    return voxels[kept] if kept else voxels


def _peaks(heat: NDArray[np.float32], voxels: NDArray[np.intp]) -> list[Peak]:
    return [Peak(voxel=(int(v[0]), int(v[1]), int(v[2])), value=float(heat[tuple(v)])) for v in voxels]


def candidates(
    peaks: Sequence[Peak],
    mask: NDArray[np.float32],
    *,
    spacing: Spacing,
    level: float = 0.5,
    shared: Literal["split", "whole"] = "split",
) -> list[Candidate]:
    """A candidate for each peak: the connected component of a soft mask that the peak lies in or touches.

    A peak without a component gets a mask of one voxel. The volume is the number of voxels. The sphericity takes
    the surface of the soft mask at ``level``.

    Args:
        peaks: the peaks.
        mask: probabilities in [0, 1], of the heat map's shape.
        spacing: of the voxels.
        level: probability from which a voxel belongs to a component.
        shared: what happens to a component with several peaks. "split": each voxel goes to the nearest peak.
            "whole": each peak gets the whole component, as in PIVOT, and ``without_overlaps`` leaves the highest.
    """
    if not peaks:
        return []
    labelled, _ = ndimage.label(mask >= level)
    parts = ndimage.find_objects(labelled)
    found: list[Candidate] = []
    places = np.array([peak.voxel for peak in peaks]) * np.array(spacing)
    for number, peak in enumerate(peaks):
        component = _component_near(labelled, peak.voxel)
        if component == 0:
            found.append(_single_voxel(peak, spacing))
            continue
        part = parts[component - 1]
        own = labelled[part] == component
        corner = tuple(int(p.start) for p in part)
        if shared == "split" and (rivals := _peaks_sharing(labelled, peaks, component, number)).size:
            grid = np.stack(
                np.meshgrid(
                    *(np.arange(n) + c for n, c in zip(own.shape, corner, strict=True)), indexing="ij"
                ),
                axis=-1,
            ) * np.array(spacing)
            mine = np.linalg.norm(grid - places[number], axis=-1)
            others = np.min([np.linalg.norm(grid - places[r], axis=-1) for r in rivals], axis=0)
            own &= mine <= others
        found.append(_measured_candidate(peak, own, mask[part], corner, spacing, level))
    return found


def _component_near(labelled: NDArray[np.integer], voxel: tuple[int, int, int]) -> int:
    """The component at a voxel, else the largest one among the neighbouring voxels, 0 if there is none."""
    here = int(labelled[voxel])
    if here:
        return here
    near = labelled[tuple(slice(max(v - 1, 0), v + 2) for v in voxel)]
    values, counts = np.unique(near[near > 0], return_counts=True)
    return int(values[np.argmax(counts)]) if len(values) else 0


def _peaks_sharing(
    labelled: NDArray[np.integer], peaks: Sequence[Peak], component: int, number: int
) -> NDArray[np.intp]:
    return np.array(
        [i for i, p in enumerate(peaks) if i != number and _component_near(labelled, p.voxel) == component],
        dtype=np.intp,
    )


def _single_voxel(peak: Peak, spacing: Spacing) -> Candidate:
    return Candidate(
        peak=peak,
        centre=(float(peak.voxel[0]), float(peak.voxel[1]), float(peak.voxel[2])),
        extent=spacing,
        volume_mm3=float(np.prod(spacing)),
        sphericity=1.0,
        corner=peak.voxel,
        mask=np.ones((1, 1, 1), dtype=bool),
    )


def _measured_candidate(
    peak: Peak,
    own: NDArray[np.bool_],
    soft: NDArray[np.float32],
    corner: Sequence[int],
    spacing: Spacing,
    level: float,
) -> Candidate:
    from skimage.measure import marching_cubes, mesh_surface_area  # takes a second, and planning needs none

    voxels = np.argwhere(own)
    if not len(voxels):
        return _single_voxel(peak, spacing)
    volume = len(voxels) * float(np.prod(spacing))
    centre = voxels.mean(axis=0) + np.array(corner)
    low, high = voxels.min(axis=0), voxels.max(axis=0) + 1
    extent = (high - low) * np.array(spacing)
    surface_map = np.pad(np.where(own, np.maximum(soft, level), np.minimum(soft, level * 0.98)), 1)
    vertices, faces, _, _ = marching_cubes(surface_map, level * 0.99, spacing=spacing)
    area = float(mesh_surface_area(vertices, faces))
    ball = pi ** (1 / 3) * (6 * volume) ** (2 / 3)
    return Candidate(
        peak=peak,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        extent=(float(extent[0]), float(extent[1]), float(extent[2])),
        volume_mm3=volume,
        sphericity=min(1.0, ball / area) if area > 0 else 1.0,
        corner=(int(corner[0] + low[0]), int(corner[1] + low[1]), int(corner[2] + low[2])),
        mask=own[tuple(slice(a, b) for a, b in zip(low, high, strict=True))],
    )


def without_overlaps(found: Sequence[Candidate], *, iou: float) -> list[Candidate]:
    """Candidates, highest peak first, without those that overlap a higher one too much.

    ``iou`` is the largest intersection over union of two bounding boxes that is allowed.
    """
    kept: list[Candidate] = []
    for candidate in sorted(found, key=lambda c: -c.peak.value):
        if all(_overlap(candidate, other) <= iou for other in kept):
            kept.append(candidate)
    return kept


def _overlap(one: Candidate, other: Candidate) -> float:
    """Intersection over union of the bounding boxes of two candidates."""
    low = np.maximum(one.corner, other.corner)
    high = np.minimum(*(np.add(c.corner, c.mask.shape) for c in (one, other)))
    both = int(np.prod(np.maximum(high - low, 0)))
    return both / (one.mask.size + other.mask.size - both)


def intensity(values: NDArray[np.floating], candidate: Candidate) -> tuple[float, float]:
    """Mean and standard deviation of a volume's values inside a candidate's mask."""
    part = tuple(slice(c, c + n) for c, n in zip(candidate.corner, candidate.mask.shape, strict=True))
    inside = values[part][candidate.mask]
    return float(inside.mean()), float(inside.std())
