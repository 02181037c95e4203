"""A single-frame grey image as it was stored, free of the parser's types: what a reader gives to an engine."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.findings import SourceImage
from inference.headers import ImageHeader
from inference.reading.display import Display

MAXIMUM_PIXELS = 256 * 1024 * 1024
"""Pixels of the largest frame that is read."""


@dataclass(frozen=True, kw_only=True)
class StoredImage:
    """A single-frame grey image as it was stored.

    ``values`` has the shape (rows, columns). Its values lie in [``lowest``, ``highest``], the range that Bits Stored
    and Pixel Representation allow. ``header`` has the attributes that were asked for.
    """

    source: SourceImage
    header: ImageHeader = field(repr=False)
    display: Display = field(repr=False)
    values: NDArray[np.integer] = field(repr=False)
    lowest: int
    highest: int
