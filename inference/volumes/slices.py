"""Files of a series to slices: classic single frames, Enhanced multi-frame images, Siemens mosaics.

References: DICOM PS3.3 sections C.7.6.2 (Image Plane), C.7.6.16.2 (functional group macros).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.multival import MultiValue

from inference.errors import ImageUnreadable
from inference.findings import SourceImage
from inference.part10 import read_dataset
from inference.pixels import MAXIMUM_PIXELS
from inference.volumes.frame import Frame, PixelLayout, Plane
from inference.volumes.header import KEYWORDS, quick_header

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
"""Attributes that tell one volume of a series from another, or that engines look at."""

_FRAME_TRAITS = {
    "EchoTime": ("MREchoSequence", "EffectiveEchoTime"),
    "DiffusionBValue": ("MRDiffusionSequence", "DiffusionBValue"),
    "TemporalPositionIdentifier": ("FrameContentSequence", "TemporalPositionIndex"),
    "AcquisitionNumber": ("FrameContentSequence", "FrameAcquisitionNumber"),
    "SliceThickness": ("PixelMeasuresSequence", "SliceThickness"),
}
"""Where Enhanced images keep traits: functional group macro and attribute."""

_NATIVE_BITS = (8, 16, 32)
_MOSAIC_IMAGES = (0x0019, 0x100A)
_CSA_IMAGE_HEADER = (0x0029, 0x1010)
_DIRECTION_TOLERANCE = 1e-2


@dataclass(frozen=True, kw_only=True)
class SeriesFrames:
    """The slices of a series' files, in the files' order, and why some files are none."""

    frames: tuple[Frame, ...]
    refused: dict[Path, str]


def read_frames(files: Sequence[Path]) -> SeriesFrames:
    """Where every slice of some files lies; no pixels are read.

    Raises:
        OSError: a file cannot be opened or read.
    """
    frames: list[Frame] = []
    refused: dict[Path, str] = {}
    for path in files:
        try:
            frames += _frames_of(path)
        except ImageUnreadable as error:
            refused[path] = str(error)
    return SeriesFrames(frames=tuple(frames), refused=refused)


def _frames_of(path: Path) -> list[Frame]:
    quick = quick_header(path)
    if quick is not None and "MOSAIC" not in quick.values.get("ImageType", ""):
        if _number(quick.values, "NumberOfFrames", 1) != 1:
            return _from_dataset(path)
        layout = _layout(quick.values, quick.pixel_offset, quick.pixel_bytes)
        if layout is not None:
            return [_classic(path, quick.values, layout)]
    return _from_dataset(path)


def _from_dataset(path: Path) -> list[Frame]:
    """Slices of a file that the full parser reads; its pixels are decoded when they are asked for."""
    dataset = read_dataset(path)
    try:
        if "PixelData" not in dataset:
            raise ImageUnreadable("the object has no pixel data")
        if "PerFrameFunctionalGroupsSequence" in dataset:
            return _enhanced(path, dataset)
        if int(dataset.get("NumberOfFrames") or 1) != 1:
            raise ImageUnreadable("a multi-frame image without functional groups has no known geometry")
        frame = _classic(path, _texts(dataset), None)
        return _mosaic(frame, dataset) if "MOSAIC" in frame.trait("ImageType") else [frame]
    except ImageUnreadable:
        raise
    except Exception as error:  # header values are converted when they are first used
        raise ImageUnreadable(f"the image's header is damaged ({type(error).__name__})") from error


def _texts(dataset: Dataset) -> dict[str, str]:
    values: dict[str, str] = {}
    for keyword in KEYWORDS:
        value = dataset.get(keyword)
        if value is not None:
            values[keyword] = (
                "\\".join(str(item) for item in value) if isinstance(value, MultiValue) else str(value)
            )
    return values


def _classic(path: Path, values: Mapping[str, str], layout: PixelLayout | None) -> Frame:
    rows, columns = int(_number(values, "Rows", 0)), int(_number(values, "Columns", 0))
    if not 0 < rows * columns <= MAXIMUM_PIXELS:
        raise ImageUnreadable(f"an image of {columns} x {rows} pixels is not read")
    if _number(values, "SamplesPerPixel", 1) != 1 or values.get("PhotometricInterpretation") != "MONOCHROME2":
        raise ImageUnreadable(
            f"the image is not a slice in MONOCHROME2 ({values.get('PhotometricInterpretation', 'none')})"
        )
    spacing = _numbers(values.get("PixelSpacing", ""), 2, "Pixel Spacing")
    slope, intercept = _number(values, "RescaleSlope", 1.0), _number(values, "RescaleIntercept", 0.0)
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
        slope=_checked_scale(slope),
        intercept=intercept,
        instance_number=int(_number(values, "InstanceNumber", 0)),
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


def _number(values: Mapping[str, str], keyword: str, default: float) -> float:
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


def _checked_scale(slope: float) -> float:
    if slope == 0:
        raise ImageUnreadable("Rescale Slope is 0")
    return slope


def _layout(values: Mapping[str, str], offset: int, length: int) -> PixelLayout | None:
    """Layout of native pixels that need no decoder, None for depths that are left to one."""
    allocated = int(_number(values, "BitsAllocated", 0))
    stored = int(_number(values, "BitsStored", allocated))
    if (
        allocated not in _NATIVE_BITS
        or not 1 <= stored <= allocated
        or _number(values, "HighBit", stored - 1) != stored - 1
    ):
        return None
    if length < _number(values, "Rows", 0) * _number(values, "Columns", 0) * allocated // 8:
        raise ImageUnreadable(f"the pixel data has only {length} bytes")
    kind = "i" if _number(values, "PixelRepresentation", 0) == 1 else "u"
    return PixelLayout(offset=offset, dtype=f"<{kind}{allocated // 8}", bits_stored=stored)


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
        frame = _classic(path, values, None)
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
