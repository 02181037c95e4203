"""One slice of a series: where it lies in the patient, and where its pixels lie in its file.

Coordinates are DICOM's patient coordinates in mm (LPS): x grows to the patient's left, y to the back, z to the
head.

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
    """Position and orientation of a slice.

    ``position`` is the centre of the first pixel. ``row_direction`` points along a row, where the column index
    grows (the first three values of Image Orientation Patient). ``column_direction`` points along a column, where
    the row index grows. Both are unit vectors at a right angle. ``spacing`` is the distance between rows and
    between columns, in mm.
    """

    position: tuple[float, float, float]
    row_direction: tuple[float, float, float]
    column_direction: tuple[float, float, float]
    spacing: tuple[float, float]

    @cached_property
    def normal(self) -> Vector:
        """Unit normal: the cross product of row direction and column direction."""
        return np.cross(self.row_direction, self.column_direction)

    @cached_property
    def affine(self) -> NDArray[np.float64]:
        """Matrix from (row, column, 1) to patient coordinates (x, y, z, 1), shape (4, 3)."""
        matrix = np.zeros((4, 3))
        matrix[:3, 0] = np.array(self.column_direction) * self.spacing[0]
        matrix[:3, 1] = np.array(self.row_direction) * self.spacing[1]
        matrix[:3, 2] = self.position
        matrix[3, 2] = 1
        return matrix


@dataclass(frozen=True, kw_only=True)
class Frame:
    """A slice whose pixels can be read.

    The slice has ``rows`` x ``columns`` pixels and starts at ``origin`` (row, column) of the stored frame. A mosaic's
    stored frame holds several slices as tiles. ``slope`` and ``intercept`` turn stored values into modality values
    (Hounsfield units for CT). ``traits`` are the attributes, as (keyword, value), that tell volumes apart.
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
        """Value of the trait with this keyword, empty if the slice does not have it."""
        return dict(self.traits).get(name, "")


@dataclass(frozen=True, kw_only=True)
class PixelLayout:
    """Where native pixels lie in a file, so that they can be read without parsing it again."""

    offset: int
    dtype: str
    """NumPy's type string of a stored cell, for example ``<i2``."""
    bits_stored: int
