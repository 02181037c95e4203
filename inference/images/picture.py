"""The source image as a picture for people, small enough for reports and overlays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from inference.images.grey import GreyImage
from inference.images.resampling import resample, triangle_axis

LONGEST_SIDE = 1024  # pixels
PERCENTILES = (0.5, 99.5)


def picture_of(image: GreyImage) -> NDArray[np.uint8]:
    """Render an image for display.

    The header's first VOI transformation is applied. Without one, the brightness range between two percentiles is
    stretched to the whole scale.

    Returns:
        An array of shape (rows, columns) where dense is bright. It has the aspect ratio of the source and at most
        ``LONGEST_SIDE`` pixels on the longer side.
    """
    rows, columns = image.values.shape
    scale = min(1.0, LONGEST_SIDE / max(rows, columns))
    height, width = max(1, round(rows * scale)), max(1, round(columns * scale))
    values = image.values
    if scale < 1.0:
        values = resample(values, triangle_axis(rows, height), triangle_axis(columns, width))
    shown = image.windowed(values)
    if shown is None:
        shown = _stretched(image.full_scale(values))
    return np.clip(np.rint(shown * np.float32(255)), 0, 255).astype(np.uint8)


def _stretched(values: NDArray[np.float32]) -> NDArray[np.float32]:
    low, high = np.percentile(values, PERCENTILES)
    if high <= low:
        return values
    return (values - np.float32(low)) / np.float32(high - low)
