"""Network input from images: as torchxrayvision makes it, and as networks trained on ImageNet need it.

torchxrayvision's ``utils.load_image`` scales the stored values to [-1024, 1024]. Its transforms ``XRayCenterCrop``
and ``XRayResizer`` take the centre square and resize it with scikit-image. Networks trained on ImageNet use
torchvision's transforms on an 8-bit RGB picture: PIL's bilinear resize, then normalisation by each channel's mean
and standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ImageUnreadable
from inference.images.grey import GreyImage
from inference.images.resampling import resample, smooth_axis

FULL_SCALE = 1024.0
IMAGENET_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32)[:, None, None]
IMAGENET_DEVIATION = np.array([0.229, 0.224, 0.225], dtype=np.float32)[:, None, None]

Values = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Field:
    """The part of an image that the network sees, in pixels of the image."""

    row: int
    column: int
    rows: int
    columns: int

    @classmethod
    def centred(cls, rows: int, columns: int) -> Field:
        """The largest centred square, placed as torchxrayvision's ``XRayCenterCrop`` does where it is off by half."""
        size = min(rows, columns)
        return cls(row=rows // 2 - size // 2, column=columns // 2 - size // 2, rows=size, columns=size)

    def of(self, values: Values) -> Values:
        """The field's part of an image's values, which have the shape (rows, columns)."""
        return values[self.row : self.row + self.rows, self.column : self.column + self.columns]


@dataclass(frozen=True, kw_only=True)
class InputScale:
    """Conversions between network input and brightness in [0, 1], of shape (..., channels, rows, columns)."""

    to_brightness: Callable[[Values], Values]
    to_input: Callable[[Values], Values]


SCALES = {
    "torchxrayvision": InputScale(
        to_brightness=lambda x: (x / np.float32(FULL_SCALE) + np.float32(1)) / np.float32(2),
        to_input=lambda b: (np.float32(2) * b - np.float32(1)) * np.float32(FULL_SCALE),
    ),
    "imagenet": InputScale(
        to_brightness=lambda x: x * IMAGENET_DEVIATION + IMAGENET_MEAN,
        to_input=lambda b: (b - IMAGENET_MEAN) / IMAGENET_DEVIATION,
    ),
    "unit": InputScale(to_brightness=lambda x: x, to_input=lambda b: b),
}
"""Input scales by the style that a model card names."""


def field_of(style: str, rows: int, columns: int) -> Field:
    """The part of an image that a network with this preprocessing style sees."""
    if style == "torchxrayvision":
        return Field.centred(rows, columns)
    return Field(row=0, column=0, rows=rows, columns=columns)


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """How the input of one network is made.

    ``size`` is its side in pixels. ``voi`` applies the header's VOI transformation.
    """

    size: int
    style: str = "torchxrayvision"
    voi: bool = False
    channels: int = 1

    def of(self, image: GreyImage) -> Values:
        """An image as network input, shape (channels, size, size); raises like :func:`network_input`."""
        return network_input(
            image,
            field_of(self.style, *image.values.shape),
            self.size,
            voi=self.voi,
            style=self.style,
            channels=self.channels,
        )


def network_input(
    image: GreyImage,
    field: Field,
    input_size: int,
    *,
    voi: bool,
    style: str = "torchxrayvision",
    channels: int = 1,
) -> Values:
    """Part of an image as network input, shape (channels, input_size, input_size).

    Args:
        image: the image.
        field: the part of it.
        input_size: side of the input in pixels.
        voi: apply the header's VOI transformation if it has one.
        style: a style of ``SCALES``, which sets the range of the input.
        channels: how often the grey values are repeated.

    Raises:
        ImageUnreadable: the field is smaller than the input and the style does not enlarge, or the style does not
            fit the number of channels.
    """
    part = field.of(image.values)
    brightness = image.windowed(part) if voi else None
    if brightness is None:
        brightness = image.full_scale(part)
    if style == "torchxrayvision":
        return _torchxrayvision_input(brightness, input_size).repeat(channels, axis=0)
    eight_bit = Image.fromarray(np.rint(np.clip(brightness, 0, 1) * 255).astype(np.uint8))
    resized = np.asarray(eight_bit.resize((input_size, input_size), Image.Resampling.BILINEAR))
    grey = (resized.astype(np.float32) / np.float32(255))[None].repeat(channels, axis=0)
    if style == "imagenet" and channels != len(IMAGENET_MEAN):
        raise ImageUnreadable("ImageNet's normalisation needs three channels: change the model card")
    return SCALES[style].to_input(grey)


def _torchxrayvision_input(brightness: Values, input_size: int) -> Values:
    """Brightness on torchxrayvision's scale, resized as by scikit-image; shape (1, input_size, input_size)."""
    size = brightness.shape[0]
    if size < input_size:
        raise ImageUnreadable(f"the image is smaller than {input_size} x {input_size} pixels")
    scaled = SCALES["torchxrayvision"].to_input(brightness)
    axis = smooth_axis(size, input_size)
    # Smoothing mixes in the zeros outside of the image, so the result is clipped to the image's own range.
    return np.clip(resample(scaled, axis, axis), scaled.min(), scaled.max())[None]
