"""Stored values to grey values: padding, Modality LUT, VOI and the direction of brightness.

References
----------
DICOM PS3.3 sections C.7.5.1.1.2 (padding), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.reading.display import LookupTable, modality_range
from inference.reading.stored import StoredImage

Voi = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A values-of-interest transformation of modality values to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class GreyImage:
    """A grey image on the scale of its own bit depth.

    ``values`` is float32 of shape (rows, columns) in [0, 1], growing with the modality value: 0 stands for
    ``lowest``, 1 for ``highest`` (modality values at the ends of the stored range, or of the lookup table).
    ``inverted`` says that low values are bright. ``voi`` is the first VOI transformation, if there is one.
    """

    values: NDArray[np.float32] = field(repr=False)
    lowest: float
    highest: float
    inverted: bool
    voi: Voi | None

    def full_scale(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Values (all, a part or a resampling of ``self.values``) as brightness in [0, 1], without VOI."""
        return np.float32(1) - values if self.inverted else values

    def windowed(self, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """Such values as brightness in [0, 1] through the VOI transformation; None where there is none."""
        if self.voi is None:
            return None
        span = np.float32(self.highest - self.lowest)
        shown = self.voi(values * span + np.float32(self.lowest))
        return np.float32(1) - shown if self.inverted else shown


def grey_image(image: StoredImage) -> GreyImage:
    """Apply padding and Modality LUT.

    A linear rescale moves the ends of the scale, not the values between them: an image whose Rescale Slope
    is positive has the grey values of its stored values.
    """
    display = image.display
    lowest, highest = modality_range(display.modality, image.lowest, image.highest)
    if isinstance(display.modality, LookupTable):
        values = display.modality.to_unit_range(image.values)
    else:
        span = np.float32(image.highest - image.lowest)
        values = (image.values.astype(np.float32) - np.float32(image.lowest)) / span
        if display.modality.slope < 0:
            values = np.float32(1) - values
    padding = _padding(image)
    if padding is not None:
        picture = values[~padding]
        values[padding] = picture.max() if display.inverted else picture.min()
    return GreyImage(
        values=values,
        lowest=lowest,
        highest=highest,
        inverted=display.inverted,
        voi=None if display.voi is None else display.voi.to_unit_range,
    )


def _padding(image: StoredImage) -> NDArray[np.bool_] | None:
    """Which stored values are padding, None where none or all are."""
    if image.display.padding is None:
        return None
    low, high = image.display.padding
    mask = (image.values >= low) & (image.values <= high)
    return mask if mask.any() and not mask.all() else None


def grey_picture(cells: NDArray[np.integer]) -> GreyImage:
    """Luminance on the scale of its own bit depth."""
    most = float(np.iinfo(cells.dtype).max)
    values = cells.astype(np.float32) / np.float32(most)
    return GreyImage(values=values, lowest=0.0, highest=most, inverted=False, voi=None)
