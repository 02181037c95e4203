"""Images to network input: torchxrayvision's way, and that of networks trained on ImageNet.

torchxrayvision's ``utils.load_image`` scales the stored values to [-1024, 1024]; its transforms
``XRayCenterCrop`` and ``XRayResizer`` take the centre square and resize it with scikit-image. The ImageNet
way is that of torchvision's transforms on an 8-bit RGB picture: PIL's bilinear resize, then each channel's
mean and standard deviation.
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
        """The largest centred square; an odd pixel goes where ``XRayCenterCrop`` leaves it."""
        size = min(rows, columns)
        return cls(row=rows // 2 - size // 2, column=columns // 2 - size // 2, rows=size, columns=size)

    def of(self, values: Values) -> Values:
        """The field's part of an image's values."""
        return values[self.row : self.row + self.rows, self.column : self.column + self.columns]


@dataclass(frozen=True, kw_only=True)
class InputScale:
    """Between network input and brightness in [0, 1], shape (..., channels, rows, columns)."""

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
    """What a network of this style sees of an image."""
    if style == "torchxrayvision":
        return Field.centred(rows, columns)
    return Field(row=0, column=0, rows=rows, columns=columns)


@dataclass(frozen=True, kw_only=True)
class InputForm:
    """What one network's input is made like: its side in pixels, style, VOI transformation and channels."""

    size: int
    style: str = "torchxrayvision"
    voi: bool = False
    channels: int = 1

    def of(self, image: GreyImage) -> Values:
        """An image as network input, float32 of shape (channels, size, size).

        Raises
        ------
        ImageUnreadable
            If the image is smaller than the network's input and the style does not enlarge.
        """
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
    """The field as network input: float32 of shape (channels, input_size, input_size).

    ``voi`` applies the VOI transformation of the header first, where there is one.

    Raises
    ------
    ImageUnreadable
        If the field is smaller than the network's input and the style does not enlarge.
    """
    part = field.of(image.values)
    brightness = image.windowed(part) if voi else None
    if brightness is None:
        brightness = image.full_scale(part)
    if style == "torchxrayvision":
        return _smooth(brightness, input_size).repeat(channels, axis=0)
    eight_bit = Image.fromarray(np.rint(np.clip(brightness, 0, 1) * 255).astype(np.uint8))
    resized = np.asarray(eight_bit.resize((input_size, input_size), Image.Resampling.BILINEAR))
    grey = (resized.astype(np.float32) / np.float32(255))[None].repeat(channels, axis=0)
    if style == "imagenet" and channels != len(IMAGENET_MEAN):
        raise ImageUnreadable("ImageNet's normalisation needs three channels: change the model card")
    return SCALES[style].to_input(grey)


def _smooth(brightness: Values, input_size: int) -> Values:
    """torchxrayvision's scale and scikit-image's resize, shape (1, input_size, input_size)."""
    size = brightness.shape[0]
    if size < input_size:
        raise ImageUnreadable(f"the image is smaller than {input_size} x {input_size} pixels")
    scaled = SCALES["torchxrayvision"].to_input(brightness)
    axis = smooth_axis(size, input_size)
    # Smoothing mixes in the zeros outside of the image; the result stays within the image's own range.
    return np.clip(resample(scaled, axis, axis), scaled.min(), scaled.max())[None]
