"""A single-frame grey image as it was stored: what a reader gives to an engine, without anything of its parser."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.findings import SourceImage
from inference.headers import ImageHeader
from inference.reading.display import Display

MAXIMUM_PIXELS = 256 * 1024 * 1024
"""Of one frame; a larger one is not read."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A single-frame grey image as it was stored.

    ``values`` is an integer array of shape (rows, columns) whose values lie in
    [``lowest``, ``highest``], the range that Bits Stored and Pixel Representation allow.
    ``header`` has the attributes that were asked for, ``source`` says where the image came from.
    """

    source: SourceImage
    header: ImageHeader = field(repr=False)
    display: Display = field(repr=False)
    values: NDArray[np.integer] = field(repr=False)
    lowest: int
    highest: int
