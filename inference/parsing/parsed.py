"""Slices of a file that needs the full parser: Enhanced multi-frame images, Siemens mosaics, what is compressed.

The node runs this in the reader process alone (``inference.reading.files``).

References: DICOM PS3.3 sections C.7.6.16.2 (functional group macros).
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
"""Where Enhanced images keep traits: functional group macro and attribute."""

_MOSAIC_IMAGES = (0x0019, 0x100A)
_CSA_IMAGE_HEADER = (0x0029, 0x1010)


def parsed_frames(source: Path | BinaryIO) -> list[Frame]:
    """Slices of a file that the full parser reads; its pixels are decoded when they are asked for.

    Raises:
        OSError: the file cannot be opened or read.
        ImageUnreadable: it has no slices with a known place.
    """
    dataset = read_dataset(source)
    path = source if isinstance(source, Path) else Path()
    try:
        if "PixelData" not in dataset:
            raise ImageUnreadable("the object has no pixel data")
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced(path, dataset)
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise ImageUnreadable("a multi-frame image without functional groups has no known geometry")
        frame = classic_frame(path, _texts(dataset), None)
        return _mosaic(frame, dataset) if "MOSAIC" in frame.trait("ImageType") else [frame]
    except (ImageUnreadable, MemoryError):
        raise
    except Exception as error:  # header values are converted when they are first used
        raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error


def _texts(dataset: Dataset) -> dict[str, str]:
    values: dict[str, str] = {}
    patient = dataset.get_item("PatientID")
    for keyword in KEYWORDS:
        value = dataset.get(keyword)
        if value is not None:
            values[keyword] = (
                "\\".join(str(item) for item in value) if isinstance(value, MultiValue) else str(value)
            )
    if patient is not None and isinstance(patient.value, bytes):
        # As the quick reader has it, which knows no character sets: it only has to be the same for all slices.
        values["PatientID"] = header_text("PatientID", patient.value)
    return values


def _enhanced(path: Path, dataset: Dataset) -> list[Frame]:
    """Slices of an Enhanced image; a macro of the frame goes before the shared one."""
    shared = dataset.get("SharedFunctionalGroupsSequence") or [Dataset()]
    whole = _texts(dataset)
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
            if (value := _of_macro(groups, macro, attribute)) is not None
        }
        frame = classic_frame(path, values, None)
        frames.append(
            replace(frame, source=replace(frame.source, frame=index + 1), instance_number=index + 1)
        )
    return frames


def _of_macro(groups: Iterable[Dataset], macro: str, attribute: str) -> object | None:
    for group in groups:
        sequence = group.get(macro)
        if sequence and attribute in sequence[0]:
            value: object = sequence[0].get(attribute)
            return value
    return None


def _joined(value: object) -> str:
    return "\\".join(str(item) for item in value) if isinstance(value, MultiValue) else str(value)


def _mosaic(frame: Frame, dataset: Dataset) -> list[Frame]:
    """The tiles of a Siemens mosaic as slices.

    A mosaic is a square of square tiles, row by row. Its Image Position is that of a slice as large as the
    whole mosaic around the same centre, so the first tile's position lies further in. Slices follow each
    other by Spacing Between Slices (Slice Thickness where that is absent) along the normal that the CSA
    header has.
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
        raise ImageUnreadable("the mosaic does not say how far its slices are apart")
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
    """SliceNormalVector of Siemens' CSA header: three decimal strings after the element's name."""
    header = dataset.get(_CSA_IMAGE_HEADER)
    if header is None or not isinstance(header.value, bytes):
        return None
    start = header.value.find(b"SliceNormalVector\0")
    if start < 0:
        return None
    # 64 bytes name, VM, VR, SyngoDT, number of items, a mark; each item: four lengths, then its padded text.
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
