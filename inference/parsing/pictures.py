"""Pixels of PNG and JPEG files, for inference without DICOM."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ImageUnreadable

MAXIMUM_PIXELS = 100_000_000


def picture_cells(file: BinaryIO) -> NDArray[np.integer]:
    """A picture's luminance: uint8, or uint16 where it has 16 bits; shape (rows, columns).

    Raises
    ------
    ImageUnreadable
        If the file is damaged, of another kind, or larger than any radiograph.
    """
    try:
        with Image.open(file) as picture:
            if picture.width * picture.height > MAXIMUM_PIXELS:
                raise ImageUnreadable(f"the picture has {picture.width} x {picture.height} pixels")
            if picture.mode.startswith("I"):
                return np.asarray(picture).clip(0, 65535).astype(np.uint16)
            return np.asarray(picture.convert("L"))
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # decoders raise what they like, an OSError without a number among it
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageUnreadable(f"the picture is damaged ({type(error).__name__})") from error
