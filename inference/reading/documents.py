"""Headers, images and slices as JSON documents between a reader process and its worker.

A reader that parsed hostile data may send anything. So reading a document checks every type, length and range,
and no document can name a file or an offset in one.
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
from inference.reading.wire import MAXIMUM_PIXEL_BYTES, PIXEL_TYPES, MalformedMessage

LONGEST_UID = 64
MOST_FRAMES = 1_000_000
MOST_ENTRIES = 65536
_DIRECTION_TOLERANCE = 1e-6


# Pixels


def pixel_document(values: NDArray[np.integer]) -> dict[str, Any]:
    """Type and shape of an array, whose pixels travel in the memory file."""
    return {"type": values.dtype.newbyteorder("<").str, "rows": values.shape[0], "columns": values.shape[1]}


def read_pixel_document(document: Fields, announced: int) -> tuple[str, int, int]:
    """Type (NumPy's type string), rows and columns of an array in the memory file.

    Args:
        document: what ``pixel_document`` made.
        announced: size of the array in bytes, as the message's header says.

    Raises:
        MalformedMessage: the document is invalid, or does not fit ``announced``.
    """
    kind = document.text("type", 3)
    rows, columns = (document.integer(name, 1, MAXIMUM_PIXELS) for name in ("rows", "columns"))
    if kind not in PIXEL_TYPES or rows * columns > MAXIMUM_PIXELS:
        raise MalformedMessage("pixels")
    needed = rows * columns * np.dtype(kind).itemsize
    if needed != announced or needed > MAXIMUM_PIXEL_BYTES:
        raise MalformedMessage("bytes of pixels")
    return kind, rows, columns


# Headers


def header_document(header: ImageHeader) -> dict[str, Any]:
    """A header as a document."""
    return {
        "sop_class_uid": header.sop_class_uid,
        "sop_instance_uid": header.sop_instance_uid,
        "attributes": dict(header.attributes),
    }


def read_header_document(document: Fields) -> ImageHeader:
    """The header that a document describes.

    Raises:
        MalformedMessage: the document is invalid.
    """
    attributes: dict[str, AttributeValue] = {}
    members = document.value("attributes")
    if not isinstance(members, dict):
        raise MalformedMessage("attributes")
    for keyword, value in members.items():
        items = value if isinstance(value, list) else [value]
        if not all(isinstance(item, str) and len(item) <= LONGEST_TEXT for item in items):
            raise MalformedMessage("attributes")
        attributes[keyword] = value
    return ImageHeader(
        sop_class_uid=document.text("sop_class_uid", LONGEST_UID),
        sop_instance_uid=document.uid("sop_instance_uid"),
        attributes=attributes,
    )


# Single images


def image_document(image: StoredImage) -> dict[str, Any]:
    """An image without its pixels as a document."""
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
    """The image that a document describes.

    Args:
        document: what ``image_document`` made.
        path: the image's file.
        values: stored values, shape (rows, columns).

    Raises:
        MalformedMessage: the document is invalid.
    """
    header = read_header_document(document.object("header"))
    lowest = document.integer("lowest", -(1 << 31), 0)
    highest = document.integer("highest", 0, 1 << 32)
    if lowest >= highest:
        raise MalformedMessage("range")
    display = document.object("display")
    modality = _read_scale(display.object("modality"))
    voi = _read_scale(display.object("voi")) if display.has("voi") else None
    if isinstance(modality, Window) or isinstance(voi, Rescale):
        raise MalformedMessage("display")
    if max(map(abs, modality_range(modality, lowest, highest))) > LARGEST_VALUE:
        raise MalformedMessage("modality")
    padding: tuple[int, int] | None = None
    if display.has("padding"):
        low, high = (math.floor(end) for end in display.numbers("padding", 2))
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
            inverted=display.value("inverted") is True, modality=modality, padding=padding, voi=voi
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
        scale = Rescale(slope=document.number("slope"), intercept=document.number("intercept"))
        if scale.slope == 0:
            raise MalformedMessage("slope")
        return scale
    if kind == "window":
        width = document.number("width")
        if width <= 0:
            raise MalformedMessage("width")
        return Window(centre=document.number("centre"), width=width, function=document.text("function", 64))
    highest = document.integer("highest", 1, 65535)
    entries = document.items("entries", 1, MOST_ENTRIES)
    if kind != "table" or not all(type(entry) is int and 0 <= entry <= highest for entry in entries):
        raise MalformedMessage("table")
    return LookupTable(
        first=document.integer("first", -(1 << 31), 1 << 31),
        highest=highest,
        entries=np.array(entries, dtype=np.uint16),
    )


# Slices


def frame_document(frame: Frame) -> dict[str, Any]:
    """A slice without its pixels as a document."""
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
    """The slice of the file ``path`` that a document describes; only a reader can read its pixels.

    Raises:
        MalformedMessage: the document is invalid.
    """
    stored_rows, stored_columns = (
        document.integer(name, 1, MAXIMUM_PIXELS) for name in ("stored_rows", "stored_columns")
    )
    rows, columns = document.integer("rows", 1, stored_rows), document.integer("columns", 1, stored_columns)
    if stored_rows * stored_columns > MAXIMUM_PIXELS:
        raise MalformedMessage("size")
    origin = document.items("origin", 2, 2)
    if not all(type(place) is int and place >= 0 for place in origin):
        raise MalformedMessage("origin")
    if origin[0] + rows > stored_rows or origin[1] + columns > stored_columns:
        raise MalformedMessage("origin")
    slope = document.number("slope")
    if slope == 0:
        raise MalformedMessage("slope")
    traits = document.items("traits", 0, 64)
    if not all(isinstance(t, list) and len(t) == 2 and all(isinstance(x, str) for x in t) for t in traits):
        raise MalformedMessage("traits")
    return Frame(
        source=SourceImage(
            path=path,
            study_instance_uid=document.text("study"),
            series_instance_uid=document.text("series"),
            sop_class_uid=document.text("sop_class"),
            sop_instance_uid=document.uid("instance"),
            rows=stored_rows,
            columns=stored_columns,
            frame=document.integer("frame", 1, MOST_FRAMES) if document.has("frame") else None,
        ),
        plane=_read_plane(document),
        rows=rows,
        columns=columns,
        slope=slope,
        intercept=document.number("intercept"),
        origin=(origin[0], origin[1]),
        instance_number=document.integer("instance_number"),
        patient_id=document.text("patient_id"),
        frame_of_reference_uid=document.text("frame_of_reference"),
        traits=tuple((name, value) for name, value in traits),
    )


def _read_plane(document: Fields) -> Plane:
    position = document.numbers("position", 3)
    row, column = document.numbers("row_direction", 3), document.numbers("column_direction", 3)
    spacing = document.numbers("spacing", 2)
    unit = max(abs(math.hypot(*row) - 1), abs(math.hypot(*column) - 1))
    slanted = abs(sum(a * b for a, b in zip(row, column, strict=True)))
    if max(unit, slanted) > _DIRECTION_TOLERANCE or min(spacing) <= 0:
        raise MalformedMessage("plane")
    return Plane(
        position=(position[0], position[1], position[2]),
        row_direction=(row[0], row[1], row[2]),
        column_direction=(column[0], column[1], column[2]),
        spacing=(spacing[0], spacing[1]),
    )
