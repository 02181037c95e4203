"""A region of interest that a person drew, from a Presentation State or a Structured Report.

The node runs this only in the reader process (``inference.reading.files``).

References: PS3.3 sections C.10.5 (Graphic Annotation), C.18.6 (Spatial Coordinates).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset

from inference.errors import ImageUnreadable
from inference.parsing.part10 import read_dataset

Box = tuple[int, int, int, int]
"""Column, row, width and height in pixels of the source image."""


def drawn_region(source: Path | BinaryIO) -> Box:
    """The box around everything that is drawn in a Presentation State or Structured Report.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: the file is damaged, or has no region in pixels.
    """
    dataset = read_dataset(source)
    points = [
        np.reshape(data, (-1, 2)) for data in (*_annotation_points(dataset), *_report_points([dataset]))
    ]
    if not points:
        raise ImageUnreadable("the file has no region in pixels of an image")
    drawn = np.concatenate(points)
    left, top = np.floor(drawn.min(axis=0)).astype(int)
    right, bottom = np.ceil(drawn.max(axis=0)).astype(int)
    return max(int(left), 0), max(int(top), 0), max(int(right - left), 1), max(int(bottom - top), 1)


def _annotation_points(dataset: Dataset) -> Iterator[list[float]]:
    """Graphic data of a Presentation State in pixels of the image, counted from 0 (the file counts from 1)."""
    for annotation in dataset.get("GraphicAnnotationSequence") or ():
        for item in annotation.get("GraphicObjectSequence") or ():
            if item.get("GraphicAnnotationUnits") == "PIXEL" and item.get("GraphicData"):
                yield [float(value) - 1 for value in item.GraphicData]


def _report_points(items: Iterable[Dataset]) -> Iterator[list[float]]:
    """Graphic data of all spatial coordinates in a report's content tree."""
    for item in items:
        if item.get("ValueType") == "SCOORD" and item.get("GraphicData"):
            yield [float(value) for value in item.GraphicData]
        yield from _report_points(item.get("ContentSequence") or ())
