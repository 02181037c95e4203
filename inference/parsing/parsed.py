"""Slices of files that need the full parser: Enhanced multi-frame images, Siemens mosaics, compressed images.

The node runs this only in the reader process (``inference.reading.files``).

References: DICOM PS3.3 section C.7.6.16.2 (functional group macros).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from inference.errors import ImageUnreadable
from inference.parsing.part10 import read_dataset
from inference.reading.classic import classic_frame
from inference.reading.frame import Frame
from inference.reading.header import KEYWORDS, header_text

_FRAME_TRAITS = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
}
"""Where Enhanced images hold each trait: functional group macro and attribute."""

_MOSAIC_IMAGES = (0x0019, 0x100A)
_CSA_IMAGE_HEADER = (0x0029, 0x1010)


def parsed_frames(source: Path | BinaryIO) -> list[Frame]:
    """The slices of a file, with their geometry and without their pixels.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: the file has no slices whose position is known.
    """
    dataset = read_dataset(source)
    path = source if isinstance(source, Path) else Path()
    try:
        if "PixelData" not in dataset:
            raise ImageUnreadable("the object has no pixel data")
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced_slices(path, dataset)
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise ImageUnreadable("a multi-frame image without functional groups has no known geometry")
        frame = classic_frame(path, _header_texts(dataset), None)
        return _mosaic_slices(frame, dataset) if "MOSAIC" in frame.trait("ImageType") else [frame]
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # header values are converted when they are first used
        raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error


def _header_texts(dataset: Dataset) -> dict[str, str]:
    values: dict[str, str] = {}
    patient = dataset.get_item("PatientID")
    for keyword in KEYWORDS:
        value = dataset.get(keyword)
        if value is not None:
            values[keyword] = _joined(value)
    if patient is not None and isinstance(patient.value, bytes):
        # Decoded as the quick reader does, which knows no character sets: the value must only be equal for all slices.
        values["PatientID"] = header_text("PatientID", patient.value)
    return values


def _enhanced_slices(path: Path, dataset: Dataset) -> list[Frame]:
    """Slices of an Enhanced image; a frame's own macro overrides the shared one."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    whole = _header_texts(dataset)
    frames: list[Frame] = []
    for index, group in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        groups = (group, shared[0])
        values = whole | {
            keyword: _joined(value)
            for keyword, (macro, attribute) in (
                _FRAME_TRAITS
                | {
                    "ImagePositionPatient": ("PlanePositionSequence", "ImagePositionPatient"),
                    "ImageOrientationPatient": ("PlaneOrientationSequence", "ImageOrientationPatient"),
                    "PixelSpacing": ("PixelMeasuresSequence", "PixelSpacing"),
                    "RescaleSlope": ("PixelValueTransformationSequence", "RescaleSlope"),
                    "RescaleIntercept": ("PixelValueTransformationSequence", "RescaleIntercept"),
                }
            ).items()
            if (value := _macro_value(groups, macro, attribute)) is not None
        }
        frame = classic_frame(path, values, None)
        frames.append(
            replace(frame, source=replace(frame.source, frame=index + 1), instance_number=index + 1)
        )
    return frames


def _macro_value(groups: Iterable[Dataset], macro: str, attribute: str) -> object | None:
    for group in groups:
        sequence = group.get(macro)
        if sequence and attribute in sequence[0]:
            value: object = sequence[0].get(attribute)
            return value
    return None


def _joined(value: object) -> str:
    return "\\".join(str(item) for item in value) if isinstance(value, MultiValue) else str(value)


def _mosaic_slices(frame: Frame, dataset: Dataset) -> list[Frame]:
    """The tiles of a Siemens mosaic as slices.

    A mosaic has as many rows of tiles as columns of tiles, and is filled row by row. Its Image Position is that of
    an imagined slice that is as large as the whole mosaic and has the same centre as the first slice. So the first
    slice's own position lies further in. The next slices follow along the normal in the CSA header, at a distance
    of Spacing Between Slices, or of Slice Thickness if that is absent.
    """
    count = int(dataset[_MOSAIC_IMAGES].value) if _MOSAIC_IMAGES in dataset else 0
    tiles = math.ceil(math.sqrt(count))
    if count < 1 or frame.rows % tiles or frame.columns % tiles:
        raise ImageUnreadable("the mosaic does not say how many slices it has")
    rows, columns = frame.rows // tiles, frame.columns // tiles
    plane = frame.plane
    row, column = np.array(plane.row_direction), np.array(plane.column_direction)
    first = (
        np.array(plane.position)
        + row * plane.spacing[1] * (frame.columns - columns) / 2
        + column * plane.spacing[0] * (frame.rows - rows) / 2
    )
    step = float(dataset.get("SpacingBetweenSlices") or dataset.get("SliceThickness") or 0)
    if step <= 0:
        raise ImageUnreadable("the mosaic does not say how far apart its slices are")
    normal = _csa_slice_normal(dataset)
    direction = plane.normal if normal is None or float(normal @ plane.normal) > 0 else -plane.normal
    return [
        replace(
            frame,
            plane=replace(plane, position=tuple((first + direction * step * number).tolist())),
            rows=rows,
            columns=columns,
            origin=(number // tiles * rows, number % tiles * columns),
            instance_number=number + 1,
        )
        for number in range(count)
    ]


def _csa_slice_normal(dataset: Dataset) -> np.ndarray[tuple[int], np.dtype[np.float64]] | None:
    """SliceNormalVector in Siemens' CSA header: three decimal strings after the element's name."""
    header = dataset.get(_CSA_IMAGE_HEADER)
    if header is None or not isinstance(header.value, bytes):
        return None
    start = header.value.find(b"SliceNormalVector\0")
    if start < 0:
        return None
    # The element: 64 bytes of name, then VM, VR, SyngoDT, number of items and a marker. Each item: four lengths,
    # then its padded text.
    position = start + 84
    numbers: list[float] = []
    while len(numbers) < 3 and position + 16 <= len(header.value):
        length = int.from_bytes(header.value[position : position + 4], "little")
        text = header.value[position + 16 : position + 16 + length].rstrip(b"\0 ")
        if length > 64:
            return None
        if text:
            numbers.append(float(text))
        position += 16 + (length + 3) // 4 * 4
    return np.array(numbers) if len(numbers) == 3 else None
