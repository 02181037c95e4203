"""A slice's position, scale and pixel layout, from its header values as text.

References: DICOM PS3.3 section C.7.6.2 (Image Plane).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from inference.errors import ImageUnreadable
from inference.findings import SourceImage
from inference.reading.forms import UID_FORM
from inference.reading.frame import Frame, PixelLayout, Plane
from inference.reading.stored import MAXIMUM_PIXELS

TRAITS = (
    "ImageType",
    "EchoTime",
    "EchoNumbers",
    "DiffusionBValue",
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "AcquisitionTime",
    "SliceThickness",
    "Modality",
)
"""Attributes that tell the volumes of a series apart, or that engines use."""

_NATIVE_BITS = (8, 16, 32)
_DIRECTION_TOLERANCE = 1e-2


def classic_frame(path: Path, values: Mapping[str, str], layout: PixelLayout | None) -> Frame:
    """The slice that header values describe.

    Args:
        path: the slice's file.
        values: header values by keyword; several values are joined by backslashes.
        layout: where the native pixels lie, None if they need a decoder.

    Raises:
        ImageUnreadable: the values describe no valid geometry, or no grey slice.
    """
    rows, columns = int(number_of(values, "Rows", 0)), int(number_of(values, "Columns", 0))
    if min(rows, columns) < 1 or rows * columns > MAXIMUM_PIXELS:
        raise ImageUnreadable(f"an image of {columns} x {rows} pixels is not read")
    if (
        number_of(values, "SamplesPerPixel", 1) != 1
        or values.get("PhotometricInterpretation") != "MONOCHROME2"
    ):
        raise ImageUnreadable(
            f"the image is not a slice in MONOCHROME2 ({values.get('PhotometricInterpretation', 'none')})"
        )
    if UID_FORM.fullmatch(values.get("SOPInstanceUID", "")) is None:
        raise ImageUnreadable("the SOP Instance UID is missing or invalid")
    spacing = _numbers(values.get("PixelSpacing", ""), 2, "Pixel Spacing")
    slope, intercept = number_of(values, "RescaleSlope", 1.0), number_of(values, "RescaleIntercept", 0.0)
    return Frame(
        source=SourceImage(
            path=path,
            study_instance_uid=values.get("StudyInstanceUID", ""),
            series_instance_uid=values.get("SeriesInstanceUID", ""),
            sop_class_uid=values.get("SOPClassUID", ""),
            sop_instance_uid=values.get("SOPInstanceUID", ""),
            rows=rows,
            columns=columns,
        ),
        plane=_plane(
            _numbers(values.get("ImagePositionPatient", ""), 3, "Image Position"),
            _numbers(values.get("ImageOrientationPatient", ""), 6, "Image Orientation"),
            spacing,
        ),
        rows=rows,
        columns=columns,
        slope=_checked_slope(slope),
        intercept=intercept,
        instance_number=int(number_of(values, "InstanceNumber", 0)),
        patient_id=values.get("PatientID", ""),
        frame_of_reference_uid=values.get("FrameOfReferenceUID", ""),
        traits=tuple((name, values[name]) for name in TRAITS if values.get(name)),
        pixels=layout,
    )


def _plane(position: Sequence[float], orientation: Sequence[float], spacing: Sequence[float]) -> Plane:
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    lengths = np.linalg.norm(row), np.linalg.norm(column)
    if (
        abs(lengths[0] - 1) > _DIRECTION_TOLERANCE
        or abs(lengths[1] - 1) > _DIRECTION_TOLERANCE
        or abs(float(row @ column)) > _DIRECTION_TOLERANCE
    ):
        raise ImageUnreadable("Image Orientation has no two unit vectors at a right angle")
    if min(spacing) <= 0:
        raise ImageUnreadable("Pixel Spacing is not above 0")
    row /= lengths[0]
    column = column - (column @ row) * row
    column /= np.linalg.norm(column)
    return Plane(
        position=(position[0], position[1], position[2]),
        row_direction=tuple(row.tolist()),
        column_direction=tuple(column.tolist()),
        spacing=(spacing[0], spacing[1]),
    )


def _numbers(text: str, count: int, name: str) -> list[float]:
    try:
        numbers = [float(part) for part in text.split("\\")]
    except ValueError:
        numbers = []
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ImageUnreadable(f"the image has no {name} of {count} numbers")
    return numbers


def number_of(values: Mapping[str, str], keyword: str, default: float) -> float:
    """The first value of a numeric attribute, ``default`` if it is absent or empty.

    Raises:
        ImageUnreadable: the value is no finite number.
    """
    text = values.get(keyword, "").split("\\")[0]
    if not text:
        return default
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ImageUnreadable(f"{keyword} is no number")
    return number


def _checked_slope(slope: float) -> float:
    if slope == 0:
        raise ImageUnreadable("Rescale Slope is 0")
    return slope


def layout_of(values: Mapping[str, str], offset: int, length: int) -> PixelLayout | None:
    """Layout of native pixels that can be read without a decoder, None if their bit depth needs one.

    Args:
        values: header values by keyword.
        offset: where the pixel data start in the file, in bytes.
        length: how long the pixel data are, in bytes.

    Raises:
        ImageUnreadable: the pixel data are too short for the image.
    """
    allocated = int(number_of(values, "BitsAllocated", 0))
    stored = int(number_of(values, "BitsStored", allocated))
    if (
        allocated not in _NATIVE_BITS
        or not 1 <= stored <= allocated
        or number_of(values, "HighBit", stored - 1) != stored - 1
    ):
        return None
    if length < number_of(values, "Rows", 0) * number_of(values, "Columns", 0) * allocated // 8:
        raise ImageUnreadable(f"the pixel data has only {length} bytes")
    kind = "i" if number_of(values, "PixelRepresentation", 0) == 1 else "u"
    return PixelLayout(offset=offset, dtype=f"<{kind}{allocated // 8}", bits_stored=stored)
