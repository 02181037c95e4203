"""PNG and JPEG files as grey images, for inference without DICOM."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inference.errors import ImageUnreadable
from inference.images.grey import GreyImage

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})
MAXIMUM_PIXELS = 100_000_000


def is_plain_picture(path: Path) -> bool:
    """Whether a file's name says that it is a PNG or JPEG."""
    return path.suffix.lower() in SUFFIXES


def picture_cells(file: BinaryIO) -> NDArray[np.integer]:
    """A picture's luminance: uint8, or uint16 where it has 16 bits; shape (rows, columns).

    The node runs this in the reader process alone (``inference.reading.files``).

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


def grey_picture(cells: NDArray[np.integer]) -> GreyImage:
    """Luminance on the scale of its own bit depth."""
    most = float(np.iinfo(cells.dtype).max)
    values = cells.astype(np.float32) / np.float32(most)
    return GreyImage(values=values, lowest=0.0, highest=most, inverted=False, voi=None)
