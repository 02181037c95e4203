"""Colours of a heat map: lightness and opacity rise with the value, and low values are transparent.

The colours run from violet through red and orange to yellow. They are interpolated in OKLab, where equal steps look
equal. Since lightness always rises, the order of values is also visible in black and white and to colour-blind
people.

References: B. Ottosson, "A perceptual color space for image processing" (OKLab), 2020.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LEVELS = 256
"""Entries of the tables, one for each value of an 8-bit heat map."""

CLEAR_BELOW = 0.15
"""Value up to which the picture stays unchanged."""

STRONGEST = 0.48
"""Opacity at value 1, at which the anatomy below is still readable."""

_FULL_OPACITY_FROM = 0.6
"""Value above which the opacity no longer rises and only the colour changes."""

_ANCHORS = np.array(
    [
        [0.30, 0.10, -0.15],
        [0.45, 0.19, -0.06],
        [0.58, 0.21, 0.06],
        [0.70, 0.15, 0.14],
        [0.80, 0.06, 0.165],
        [0.90, -0.03, 0.18],
    ]
)
"""Colours at evenly spaced values: lightness, green-red, blue-yellow of OKLab."""

_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


@cache
def colours() -> NDArray[np.uint8]:
    """sRGB colours by level, shape (256, 3)."""
    position = np.linspace(0.0, len(_ANCHORS) - 1.0, LEVELS)
    lab = np.stack(
        [np.interp(position, np.arange(len(_ANCHORS)), _ANCHORS[:, axis]) for axis in range(3)], axis=1
    )
    linear = np.clip((lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T, 0.0, 1.0)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    table: NDArray[np.uint8] = np.rint(255.0 * encoded).astype(np.uint8)
    table.setflags(write=False)
    return table


@cache
def opacities() -> NDArray[np.float32]:
    """Opacities in [0, 1] by level, shape (256,)."""
    value = np.linspace(0.0, 1.0, LEVELS)
    rise = np.clip((value - CLEAR_BELOW) / (_FULL_OPACITY_FROM - CLEAR_BELOW), 0.0, 1.0)
    table: NDArray[np.float32] = (STRONGEST * rise).astype(np.float32)
    table.setflags(write=False)
    return table


def blend(picture: NDArray[np.uint8], heat: NDArray[np.uint8]) -> Image.Image:
    """Lay a heat map over a grey picture, both of shape (rows, columns); gives a picture of mode RGB."""
    place = heat.astype(np.uint16)
    place <<= 8
    place |= picture
    rows, columns = picture.shape
    coloured = np.take(_blended(), place, mode="clip")  # every place is in the table, so none is clipped
    return Image.frombuffer("RGBX", (columns, rows), coloured, "raw", "RGBX", 0, 1).convert("RGB")


@cache
def _blended() -> NDArray[np.uint32]:
    """Table of each heat level over each grey value, at index 256 x heat + grey.

    The bytes of an entry are red, green, blue and 0. Looking a pixel up takes a tenth of the time of computing it.
    """
    grey = np.arange(LEVELS, dtype=np.uint8)
    opacity = opacities()[:, np.newaxis, np.newaxis]
    blended = grey[:, np.newaxis] * (1.0 - opacity) + colours()[:, np.newaxis] * opacity
    table = np.zeros((LEVELS, LEVELS, 4), np.uint8)
    table[..., :3] = blended
    flat: NDArray[np.uint32] = table.view(np.uint32).ravel()
    flat.setflags(write=False)
    return flat
