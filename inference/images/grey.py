"""Grey values of an image from its stored values: padding, Modality LUT, VOI and inversion.

References: DICOM PS3.3 sections C.7.5.1.1.2 (padding), C.11.1 (Modality LUT) and C.11.2 (VOI LUT).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.reading.display import LookupTable, modality_range
from inference.reading.stored import StoredImage

Voi = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""A VOI (value of interest) transformation, from modality values to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class GreyImage:
    """A grey image on the scale of its own bit depth.

    ``values`` has the shape (rows, columns) and lies in [0, 1]: 0 stands for the modality value ``lowest``, 1 for
    ``highest``. These are the modality values at the ends of the stored range, or of the lookup table. ``inverted``
    means that low values are bright. ``voi`` is the header's first VOI transformation.
    """

    values: NDArray[np.float32] = field(repr=False)
    lowest: float
    highest: float
    inverted: bool
    voi: Voi | None

    def full_scale(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """``self.values``, a part or a resampling of them, as brightness in [0, 1], without VOI."""
        return np.float32(1) - values if self.inverted else values

    def windowed(self, values: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """The same values as brightness in [0, 1] after the VOI transformation, None if there is none."""
        if self.voi is None:
            return None
        span = np.float32(self.highest - self.lowest)
        shown = self.voi(values * span + np.float32(self.lowest))
        return np.float32(1) - shown if self.inverted else shown


def grey_image(image: StoredImage) -> GreyImage:
    """Apply padding and Modality LUT.

    A linear rescale only moves the ends of the scale. So with a positive Rescale Slope, the grey values are the
    stored values scaled to [0, 1].
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
    """Mask of the padding, None if no pixel or every pixel is padding."""
    if image.display.padding is None:
        return None
    low, high = image.display.padding
    mask = (image.values >= low) & (image.values <= high)
    return mask if mask.any() and not mask.all() else None


def grey_picture(cells: NDArray[np.integer]) -> GreyImage:
    """A PNG or JPEG picture's luminance as a grey image, without VOI and not inverted."""
    most = float(np.iinfo(cells.dtype).max)
    values = cells.astype(np.float32) / np.float32(most)
    return GreyImage(values=values, lowest=0.0, highest=most, inverted=False, voi=None)
