"""What a reader process says of a file, as JSON, and back again with every value checked.

The reader has parsed hostile data and may say anything: types, lengths and ranges are checked here, and
nothing that it says names a file or a place in one.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from inference.findings import SourceImage
from inference.headers import AttributeValue, ImageHeader
from inference.reading.display import LARGEST_VALUE, Display, LookupTable, Rescale, Window, modality_range
from inference.reading.fields import LONGEST_TEXT, Fields
from inference.reading.frame import Frame, Plane
from inference.reading.stored import MAXIMUM_PIXELS, StoredImage
from inference.reading.wire import MAXIMUM_PIXEL_BYTES, PIXEL_TYPES, Nonsense

LONGEST_UID = 64
MOST_FRAMES = 1_000_000
MOST_ENTRIES = 65536
_DIRECTION_TOLERANCE = 1e-6


# Pixels


def pixel_document(values: NDArray[np.integer]) -> dict[str, Any]:
    """Type and shape of an array that is in the memory file."""
    return {"type": values.dtype.newbyteorder("<").str, "rows": values.shape[0], "columns": values.shape[1]}


def read_pixel_document(document: Fields, announced: int) -> tuple[str, int, int]:
    """Type, rows and columns of an array of as many bytes as were announced."""
    kind = document.text("type", 3)
    rows, columns = (document.whole(name, 1, MAXIMUM_PIXELS) for name in ("rows", "columns"))
    if kind not in PIXEL_TYPES or rows * columns > MAXIMUM_PIXELS:
        raise Nonsense("pixels")
    needed = rows * columns * np.dtype(kind).itemsize
    if needed != announced or needed > MAXIMUM_PIXEL_BYTES:
        raise Nonsense("bytes of pixels")
    return kind, rows, columns


# Headers


def header_document(header: ImageHeader) -> dict[str, Any]:
    return {
        "sop_class_uid": header.sop_class_uid,
        "sop_instance_uid": header.sop_instance_uid,
        "attributes": dict(header.attributes),
    }


def read_header_document(document: Fields) -> ImageHeader:
    attributes: dict[str, AttributeValue] = {}
    members = document.any("attributes")
    if not isinstance(members, dict):
        raise Nonsense("attributes")
    for keyword, value in members.items():
        several = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) and len(item) <= LONGEST_TEXT for item in several):
            raise Nonsense("attributes")
        attributes[keyword] = value
    return ImageHeader(
        sop_class_uid=document.text("sop_class_uid", LONGEST_UID),
        sop_instance_uid=document.uid("sop_instance_uid"),
        attributes=attributes,
    )


# Single images


def image_document(image: StoredImage) -> dict[str, Any]:
    display = image.display
    return {
        **pixel_document(image.values),
        "header": header_document(image.header),
        "lowest": image.lowest,
        "highest": image.highest,
        "display": {
            "inverted": display.inverted,
            "modality": _scale_document(display.modality),
            "padding": None if display.padding is None else list(display.padding),
            "voi": None if display.voi is None else _scale_document(display.voi),
        },
    }


def read_image_document(document: Fields, path: Path, values: NDArray[np.integer]) -> StoredImage:
    header = read_header_document(document.object("header"))
    lowest = document.whole("lowest", -(1 << 31), 0)
    highest = document.whole("highest", 0, 1 << 32)
    if lowest >= highest:
        raise Nonsense("range")
    display = document.object("display")
    modality = _read_scale(display.object("modality"))
    voi = _read_scale(display.object("voi")) if display.has("voi") else None
    if isinstance(modality, Window) or isinstance(voi, Rescale):
        raise Nonsense("display")
    if max(map(abs, modality_range(modality, lowest, highest))) > LARGEST_VALUE:
        raise Nonsense("modality")
    padding: tuple[int, int] | None = None
    if display.has("padding"):
        low, high = (math.floor(end) for end in display.reals("padding", 2))
        padding = low, high
    uids = [header.first(keyword) for keyword in ("StudyInstanceUID", "SeriesInstanceUID")]
    return StoredImage(
        source=SourceImage(
            path=path,
            study_instance_uid=uids[0],
            series_instance_uid=uids[1],
            sop_class_uid=header.sop_class_uid,
            sop_instance_uid=header.sop_instance_uid,
            rows=values.shape[0],
            columns=values.shape[1],
        ),
        header=header,
        display=Display(
            inverted=display.any("inverted") is True, modality=modality, padding=padding, voi=voi
        ),
        values=values,
        lowest=lowest,
        highest=highest,
    )


def _scale_document(scale: Rescale | Window | LookupTable) -> dict[str, Any]:
    if isinstance(scale, LookupTable):
        return {
            "kind": "table",
            "first": scale.first,
            "highest": scale.highest,
            "entries": scale.entries.tolist(),
        }
    return {"kind": "rescale" if isinstance(scale, Rescale) else "window", **asdict(scale)}


def _read_scale(document: Fields) -> Rescale | Window | LookupTable:
    kind = document.text("kind")
    if kind == "rescale":
        scale = Rescale(slope=document.real("slope"), intercept=document.real("intercept"))
        if scale.slope == 0:
            raise Nonsense("slope")
        return scale
    if kind == "window":
        width = document.real("width")
        if width <= 0:
            raise Nonsense("width")
        return Window(centre=document.real("centre"), width=width, function=document.text("function", 64))
    highest = document.whole("highest", 1, 65535)
    entries = document.listed("entries", 1, MOST_ENTRIES)
    if kind != "table" or not all(type(entry) is int and 0 <= entry <= highest for entry in entries):
        raise Nonsense("table")
    return LookupTable(
        first=document.whole("first", -(1 << 31), 1 << 31),
        highest=highest,
        entries=np.array(entries, dtype=np.uint16),
    )


# Slices


def frame_document(frame: Frame) -> dict[str, Any]:
    source, plane = frame.source, frame.plane
    return {
        "study": source.study_instance_uid,
        "series": source.series_instance_uid,
        "sop_class": source.sop_class_uid,
        "instance": source.sop_instance_uid,
        "stored_rows": source.rows,
        "stored_columns": source.columns,
        "frame": source.frame,
        "position": list(plane.position),
        "row_direction": list(plane.row_direction),
        "column_direction": list(plane.column_direction),
        "spacing": list(plane.spacing),
        "rows": frame.rows,
        "columns": frame.columns,
        "slope": frame.slope,
        "intercept": frame.intercept,
        "origin": list(frame.origin),
        "instance_number": frame.instance_number,
        "patient_id": frame.patient_id,
        "frame_of_reference": frame.frame_of_reference_uid,
        "traits": [list(trait) for trait in frame.traits],
    }


def read_frame_document(document: Fields, path: Path) -> Frame:
    """A slice of a file; its pixels can only come from a reader again."""
    stored_rows, stored_columns = (
        document.whole(name, 1, MAXIMUM_PIXELS) for name in ("stored_rows", "stored_columns")
    )
    rows, columns = document.whole("rows", 1, stored_rows), document.whole("columns", 1, stored_columns)
    if stored_rows * stored_columns > MAXIMUM_PIXELS:
        raise Nonsense("size")
    origin = document.listed("origin", 2, 2)
    if not all(type(place) is int and place >= 0 for place in origin):
        raise Nonsense("origin")
    if origin[0] + rows > stored_rows or origin[1] + columns > stored_columns:
        raise Nonsense("origin")
    slope = document.real("slope")
    if slope == 0:
        raise Nonsense("slope")
    traits = document.listed("traits", 0, 64)
    if not all(isinstance(t, list) and len(t) == 2 and all(isinstance(x, str) for x in t) for t in traits):
        raise Nonsense("traits")
    return Frame(
        source=SourceImage(
            path=path,
            study_instance_uid=document.text("study"),
            series_instance_uid=document.text("series"),
            sop_class_uid=document.text("sop_class"),
            sop_instance_uid=document.uid("instance"),
            rows=stored_rows,
            columns=stored_columns,
            frame=document.whole("frame", 1, MOST_FRAMES) if document.has("frame") else None,
        ),
        plane=_read_plane(document),
        rows=rows,
        columns=columns,
        slope=slope,
        intercept=document.real("intercept"),
        origin=(origin[0], origin[1]),
        instance_number=document.whole("instance_number"),
        patient_id=document.text("patient_id"),
        frame_of_reference_uid=document.text("frame_of_reference"),
        traits=tuple((name, value) for name, value in traits),
    )


def _read_plane(document: Fields) -> Plane:
    position = document.reals("position", 3)
    row, column = document.reals("row_direction", 3), document.reals("column_direction", 3)
    spacing = document.reals("spacing", 2)
    unit = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1))
    slanted = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    if max(unit, slanted) > _DIRECTION_TOLERANCE or min(spacing) <= 0:
        raise Nonsense("plane")
    return Plane(
        position=(position[0], position[1], position[2]),
        row_direction=(row[0], row[1], row[2]),
        column_direction=(column[0], column[1], column[2]),
        spacing=(spacing[0], spacing[1]),
    )
