"""PNG and JPEG files as grey images, for inference without DICOM."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from inference.errors import ImageUnreadable
from inference.grey import GreyImage

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAXIMUM_PIXELS = 100_000_000


def is_plain_picture(path: Path) -> bool:
    """Whether a file's name says that it is a PNG or JPEG."""
    return path.suffix.lower() in SUFFIXES


def read_plain_picture(path: Path) -> GreyImage:
    """A picture's luminance on the scale of its own bit depth.

    Raises
    ------
    ImageUnreadable
        If the file is damaged, of another kind, or larger than any radiograph.
    """
    try:
        with Image.open(path) as picture:
            if picture.width * picture.height > MAXIMUM_PIXELS:
                raise ImageUnreadable(f"the picture has {picture.width} x {picture.height} pixels")
            sixteen = picture.mode.startswith("I")
            cells = np.asarray(picture if sixteen else picture.convert("L"))
    except (UnidentifiedImageError, SyntaxError, ValueError) as error:
        raise ImageUnreadable(f"the picture is damaged ({type(error).__name__})") from error
    most = 65535.0 if sixteen else 255.0
    values = (cells.astype(np.float32) / np.float32(most)).clip(0, 1)
    return GreyImage(values=values, lowest=0.0, highest=most, inverted=False, voi=None)
