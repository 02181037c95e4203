"""Pixels of PNG and JPEG files, for inference without DICOM."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ImageUnreadable

MAXIMUM_PIXELS = 100_000_000


def picture_cells(file: BinaryIO) -> NDArray[np.integer]:
    """Luminance of a picture, shape (rows, columns): uint16 for pictures of 16 bits, otherwise uint8.

    Raises:
        OSError: the file cannot be read now.
        ImageUnreadable: the file is damaged, no picture, or has more than ``MAXIMUM_PIXELS``.
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
    except Exception as error:  # decoders raise almost anything, also an OSError without an errno
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ImageUnreadable(f"the picture is damaged ({type(error).__name__})") from error
