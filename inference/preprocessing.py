"""Images to network input, as torchxrayvision prepares them.

torchxrayvision's ``utils.load_image`` scales the stored values to [-1024, 1024]; its transforms
``XRayCenterCrop`` and ``XRayResizer`` take the centre square and resize it with scikit-image.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.errors import ImageUnreadable
from inference.grey import GreyImage
from inference.resampling import resample, smooth_axis

FULL_SCALE = 1024.0


@dataclass(frozen=True, kw_only=True)
class Square:
    """The part of an image that the network sees, in pixels of the image."""

    row: int
    column: int
    size: int

    @classmethod
    def centred(cls, rows: int, columns: int) -> Square:
        """The largest centred square; an odd pixel goes where ``XRayCenterCrop`` leaves it."""
        size = min(rows, columns)
        return cls(row=rows // 2 - size // 2, column=columns // 2 - size // 2, size=size)

    def of(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """The square's part of an image's values."""
        return values[self.row : self.row + self.size, self.column : self.column + self.size]


def network_input(image: GreyImage, square: Square, input_size: int, *, voi: bool) -> NDArray[np.float32]:
    """The square as network input: float32 of shape (1, input_size, input_size) in [-1024, 1024].

    ``voi`` applies the VOI transformation of the header first, where there is one.

    Raises
    ------
    ImageUnreadable
        If the square is smaller than the network's input.
    """
    if square.size < input_size:
        raise ImageUnreadable(f"the image is smaller than {input_size} x {input_size} pixels")
    part = square.of(image.values)
    brightness = image.windowed(part) if voi else None
    if brightness is None:
        brightness = image.full_scale(part)
    scaled = (np.float32(2) * brightness - np.float32(1)) * np.float32(FULL_SCALE)
    axis = smooth_axis(square.size, input_size)
    # Smoothing mixes in the zeros outside of the image; the result stays within the image's own range.
    return np.clip(resample(scaled, axis, axis), *_range_of(scaled))[None]


def _range_of(scaled: NDArray[np.float32]) -> tuple[np.float32, np.float32]:
    return scaled.min(), scaled.max()
