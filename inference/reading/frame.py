"""One slice of a series: where it lies in the patient, and where its pixels lie in its file.

Coordinates are DICOM's patient coordinates in mm: x to the patient's left, y to the back, z to the head (LPS).

References: DICOM PS3.3 sections C.7.6.2 (Image Plane), C.7.6.16 (Multi-frame Functional Groups).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.findings import SourceImage

Vector = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Plane:
    """Position and direction of a slice.

    ``position`` is the centre of its first pixel. ``row_direction`` is the direction in which the column
    index grows (the first three values of Image Orientation Patient), ``column_direction`` the one in
    which the row index grows; both are unit vectors at a right angle. ``spacing`` is (between rows,
    between columns) in mm.
    """

    position: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing: tuple[float, float]

    @cached_property
    def normal(self) -> Vector:
        """Unit normal: row direction x column direction."""
        return np.cross(self.row_direction, self.column_direction)

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """4 x 3 matrix from (row, column, 1) to patient coordinates with a 1 below."""
        matrix = np.zeros((4, 3))
        matrix[:3, 0] = np.array(self.column_direction) * self.spacing[0]
        matrix[:3, 1] = np.array(self.row_direction) * self.spacing[1]
        matrix[:3, 2] = self.position
        matrix[3, 2] = 1
        return matrix


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A slice that can be read.

    ``rows`` and ``columns`` are those of the slice; it starts at ``origin`` (row, column) of the stored
    frame, which is larger for the tiles of a mosaic. ``slope`` and ``intercept`` make modality values
    (Hounsfield units for CT) of stored ones. ``traits`` is what separates volumes, by attribute name.
    """

    source: SourceImage
    plane: Plane
    rows: int
    columns: int
    slope: float = 1.0
    intercept: float = 0.0
    origin: tuple[int, int] = (0, 0)
    instance_number: int = 0
    patient_id: str = field(default="", repr=False)
    frame_of_reference_uid: str = ""
    traits: tuple[tuple[str, str], ...] = ()
    pixels: PixelLayout | None = field(default=None, repr=False)

    def trait(self, name: str) -> str:
        """Value of one trait, empty where the slice has none."""
        return dict(self.traits).get(name, "")


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """Where native pixels lie in the file, so that they are read without parsing it again."""

    offset: int
    dtype: str
    """NumPy's type string of a stored cell, for example ``<i2``."""
    bits_stored: int
