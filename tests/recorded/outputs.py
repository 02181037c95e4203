"""Outputs as plain values: JSON documents and DICOM objects without their times, long lists as their measures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import isclose
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image
from pydicom import Dataset

LONGEST_LIST = 12
TIMES = re.compile(r"(Date|Time|DateTime)$|TimezoneOffset|Timezone")
NUMBER = re.compile(r"-?\d+\.\d+(?:e-?\d+)?")
TOLERANCE = 2e-3
"""Of numbers, between processors: relative, and absolute for those near 0."""
PIXEL_TOLERANCE = 0.5
"""Of the means of grey levels; a heat map of a faint gradient is stretched to the whole range."""

Recorded = Any
"""What JSON holds: null, booleans, numbers, strings, lists and objects."""


def document(value: Recorded, folder: Path) -> Recorded:
    """A JSON document without times, and with file names in place of paths."""
    if isinstance(value, dict):
        return {key: document(item, folder) for key, item in value.items() if not _is_time(key)}
    if isinstance(value, list):
        return _listed([document(item, folder) for item in value])
    if isinstance(value, str) and "/" in value and Path(value).is_absolute():
        return Path(value).name
    return value


def _is_time(key: str) -> bool:
    return key.endswith(("_ms", "_seconds"))


def dicom(path: Path) -> Recorded:
    """A DICOM object's attributes by keyword, times left out, and its pixels as a grid of means."""
    dataset = pydicom.dcmread(path)
    said = {"meta": _dataset(dataset.file_meta), "data": _dataset(dataset)}
    if "PixelData" in dataset:
        said["pixels"] = _pixels(dataset.pixel_array)
    return said


def picture(path: Path) -> Recorded:
    """A PNG file's pixels as a grid of means."""
    return _pixels(np.asarray(Image.open(path)))


def _dataset(dataset: Dataset) -> Recorded:
    said: dict[str, Recorded] = {}
    for element in dataset:
        name = element.keyword or str(element.tag)
        if TIMES.search(name) or name == "PixelData" or name == "FileMetaInformationGroupLength":
            continue
        if element.VR == "SQ":
            said[name] = _listed([_dataset(item) for item in element.value])
        elif isinstance(element.value, (bytes, bytearray)):
            said[name] = f"{len(element.value)} bytes"
        elif element.VM > 1:
            said[name] = _listed([_plain(item) for item in element.value])
        else:
            said[name] = _plain(element.value)
    return said


def _plain(value: Any) -> Recorded:
    if value is None or isinstance(value, (int, str)):
        return value if not isinstance(value, int) else int(value)
    if isinstance(value, float):
        return float(value)
    return str(value)


def _listed(values: list[Recorded]) -> Recorded:
    """A list, of which more than ``LONGEST_LIST`` items are a count, the first, the last and, of numbers, measures."""
    if len(values) <= LONGEST_LIST:
        return values
    if all(isinstance(value, (int, float)) for value in values):
        return {
            "count": len(values),
            "least": min(values),
            "most": max(values),
            "mean": float(np.mean(values)),
        }
    return {"count": len(values), "first": values[0], "last": values[-1]}


def _pixels(pixels: np.ndarray[Any, Any]) -> Recorded:
    """Shape and a grid of 6 x 6 means over the last image axes; those of colours and frames are averaged."""
    planes = pixels.astype(np.float64)
    if planes.ndim == 3 and planes.shape[2] == 3:
        planes = planes.mean(axis=2)
    while planes.ndim > 2:
        planes = planes.mean(axis=0)
    cells = [np.array_split(row, 6, axis=1) for row in np.array_split(planes, 6, axis=0)]
    return {"shape": list(pixels.shape), "means": [[round(float(c.mean()), 3) for c in row] for row in cells]}


def differences(former: Recorded, now: Recorded, where: str = "") -> list[str]:
    """Where two recorded values differ by more than processors do; empty where they are the same."""
    if isinstance(former, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*former, *now])
        return [
            line
            for key in keys
            for line in (
                differences(former[key], now[key], f"{where}/{key}")
                if key in former and key in now
                else [f"{where}/{key}: {'new' if key in now else 'gone'}"]
            )
        ]
    if isinstance(former, list) and isinstance(now, list) and len(former) == len(now):
        pairs = enumerate(zip(former, now, strict=True))
        return [line for i, (one, other) in pairs for line in differences(one, other, f"{where}/{i}")]
    tolerance = PIXEL_TOLERANCE if "/means/" in where else TOLERANCE
    return [] if _same(former, now, tolerance) else [f"{where}: {former!r} is now {now!r}"]


def _same(former: Recorded, now: Recorded, tolerance: float) -> bool:
    if isinstance(former, str) and isinstance(now, str):
        return NUMBER.split(former) == NUMBER.split(now) and _close(
            NUMBER.findall(former), NUMBER.findall(now), tolerance
        )
    if isinstance(former, float) or isinstance(now, float):
        return (
            isinstance(now, (int, float))
            and isinstance(former, (int, float))
            and _close([former], [now], tolerance)
        )
    return bool(former == now)


def _close(former: Sequence[Any], now: Sequence[Any], tolerance: float) -> bool:
    numbers = ((float(a), float(b)) for a, b in zip(former, now, strict=True))
    return all(isclose(a, b, rel_tol=tolerance, abs_tol=tolerance) for a, b in numbers)
