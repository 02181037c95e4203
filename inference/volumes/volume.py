"""A volume: the modality values of a series' slices, in order, and where each slice lies in the patient.

Array axes are (slice, row, column). An affine matrix maps (slice, row, column, 1) to LPS coordinates in mm.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from inference.errors import ImageUnreadable
from inference.findings import SourceImage, mixed_patients
from inference.reading.frame import Frame
from inference.reading.slices import frames_of_files
from inference.volumes.loading import Values, load, same_pixels
from inference.volumes.sorting import Stack, stacks_of

Affine = NDArray[np.float64]

REGULAR_MM = 0.02
"""Slices that are off a regular grid by at most this count as lying on it."""

WIDEST_GAP_MM = 12.0
WIDEST_GAP_RATIO = 3.5
"""Slices are missing if a gap is wider than ``WIDEST_GAP_MM`` and than this many times the median gap."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Where the voxels of an array of shape ``shape`` lie."""

    affine: Affine = field(repr=False)
    shape: tuple[int, int, int]

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distances of voxels along the array's axes (slice, row, column), in mm."""
        lengths = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel."""
        return float(abs(np.linalg.det(self.affine[:3, :3])))

    def to_patient(self, voxels: NDArray[np.floating]) -> NDArray[np.float64]:
        """LPS coordinates in mm, shape (n, 3), of voxel coordinates (slice, row, column) of the same shape."""
        return np.asarray(np.atleast_2d(voxels) @ self.affine[:3, :3].T + self.affine[:3, 3])


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Modality values of a stack's slices as they were scanned; ``resampling.to_grid`` puts them on a grid."""

    stack: Stack
    values: Values = field(repr=False)

    @property
    def frames(self) -> tuple[Frame, ...]:
        """The slices, in the order of ``values``."""
        return self.stack.frames

    @property
    def source(self) -> SourceImage:
        """The slice in the middle."""
        return self.frames[len(self.frames) // 2].source

    @property
    def gaps(self) -> NDArray[np.float64]:
        """Distances between neighbouring slices in mm, shape (slices - 1,)."""
        return np.diff(self.stack.distances)

    @property
    def planes(self) -> NDArray[np.float64]:
        """Matrices from (row, column, 1) of each slice to patient coordinates (x, y, z, 1), shape (slices, 4, 3)."""
        return np.stack([frame.plane.affine for frame in self.frames])

    @property
    def tilted(self) -> bool:
        """Whether slices are shifted against each other within their plane, as with a tilted gantry."""
        return bool(np.abs(self.stack.offsets).max() > REGULAR_MM)

    @property
    def remarks(self) -> tuple[str, ...]:
        """What was left out or corrected, as sentences for the report."""
        remarks = list(self.stack.remarks)
        if self.tilted:
            remarks.append("the gantry was tilted; slices were put to their true positions")
        gaps = self.gaps
        if len(gaps) and np.ptp(gaps) > REGULAR_MM:
            remarks.append(f"slices are {gaps.min():.2f} to {gaps.max():.2f} mm apart")
        return tuple(remarks)


@dataclass(frozen=True, kw_only=True)
class Series:
    """The volumes of a series, largest first, and why other files or slices were refused."""

    volumes: tuple[Volume, ...]
    refused: tuple[str, ...]


def read_series(files: Sequence[Path], *, fewest_slices: int = 2, load_pixels: bool = True) -> Series:
    """Read the volumes of one series.

    Args:
        files: the files of the series.
        fewest_slices: stacks with fewer are refused.
        load_pixels: False leaves the volumes without values.

    Raises:
        OSError: a file cannot be opened or read.
    """
    read = frames_of_files(files)
    reasons = list(dict.fromkeys(read.refused.values()))
    patients = {frame.patient_id for frame in read.frames}
    if len(patients) > 1:
        return Series(volumes=(), refused=(*reasons, mixed_patients(len(patients))))
    volumes: list[Volume] = []
    try:
        stacks, refused = stacks_of(read.frames, same_pixels)
    except ImageUnreadable as error:
        return Series(volumes=(), refused=(*reasons, str(error)))
    reasons += refused
    for stack in stacks:
        reason = refusal_of(stack, fewest_slices)
        if reason is not None:
            reasons.append(reason)
            continue
        try:
            values = load(stack.frames) if load_pixels else np.empty((0, 0, 0), dtype=np.int16)
        except ImageUnreadable as error:
            reasons.append(str(error))
            continue
        volumes.append(Volume(stack=stack, values=values))
    return Series(volumes=tuple(volumes), refused=tuple(dict.fromkeys(reasons)))


def refusal_of(stack: Stack, fewest_slices: int) -> str | None:
    """Why a stack cannot be analysed as a volume, None if it can."""
    if len(stack.frames) < fewest_slices:
        return f"{len(stack.frames)} slices are no volume; at least {fewest_slices} are needed"
    gaps = np.diff(stack.distances)
    if len(gaps) and gaps.max() > max(WIDEST_GAP_MM, WIDEST_GAP_RATIO * float(np.median(gaps))):
        return f"slices are missing: a gap of {gaps.max():.1f} mm among gaps of {np.median(gaps):.1f} mm"
    return None
