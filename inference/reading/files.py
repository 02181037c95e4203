"""Images, slices and headers of untrusted files, read in a reader process.

A file may crash a decoder, make it hang or exhaust its memory. Then only the reader process ends, and the file is
refused with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from inference.headers import ImageHeader
from inference.reading.documents import (
    MOST_FRAMES,
    read_frame_document,
    read_header_document,
    read_image_document,
    read_pixel_document,
)
from inference.reading.fields import Fields
from inference.reading.frame import Frame
from inference.reading.pool import readers
from inference.reading.process import ReaderProcess
from inference.reading.stored import StoredImage
from inference.reading.wire import MalformedMessage, read_pixels

T = TypeVar("T")
Pixels = NDArray[np.integer]
LARGEST_COORDINATE = 1 << 31


def read_image(path: Path, keywords: Iterable[str] = ()) -> StoredImage:
    """Read a DICOM file with a single-frame grey image.

    Args:
        path: the file.
        keywords: attributes to take into the image's header.

    Raises:
        OSError: the file cannot be opened or read now.
        ImageUnreadable: the file is no such image, cannot be decoded, or exceeds a limit of the reader.
    """
    request = {"operation": "image", "keywords": sorted(keywords)}
    return _read(
        path,
        request,
        lambda reader, fields, size: read_image_document(fields, path, _pixels(reader, fields, size)),
    )


def read_header(path: Path, keywords: Iterable[str]) -> ImageHeader:
    """The attributes of a DICOM file that engines select images by; raises like :func:`read_image`."""
    request = {"operation": "header", "keywords": sorted(keywords)}
    return _read(path, request, lambda _reader, fields, _size: read_header_document(fields))


def read_frames(path: Path) -> list[Frame]:
    """The slices of a DICOM file, without pixels; raises like :func:`read_image`."""
    return _read(
        path,
        {"operation": "frames"},
        lambda _reader, fields, _size: [
            read_frame_document(Fields(frame), path) for frame in fields.items("frames", 0, MOST_FRAMES)
        ],
    )


def read_picture(path: Path) -> Pixels:
    """Luminance of a PNG or JPEG file, uint8 or uint16 (rows, columns); raises like :func:`read_image`."""
    return _read(path, {"operation": "picture"}, _pixels)


def read_region(path: Path) -> tuple[int, int, int, int]:
    """The box around what is drawn in a Presentation State or Structured Report; raises like :func:`read_image`.

    Returns:
        Column, row, width and height in pixels of the source image.
    """

    def box(_reader: ReaderProcess, fields: Fields, _size: int) -> tuple[int, int, int, int]:
        left, top, width, height = fields.items("box", 4, 4)
        checked = Fields({"left": left, "top": top, "width": width, "height": height})
        return (
            checked.integer("left", 0, LARGEST_COORDINATE),
            checked.integer("top", 0, LARGEST_COORDINATE),
            checked.integer("width", 1, LARGEST_COORDINATE),
            checked.integer("height", 1, LARGEST_COORDINATE),
        )

    return _read(path, {"operation": "region"}, box)


class FrameReader:
    """The frames of one grey DICOM file, decoded one at a time.

    It is a context manager, and occupies a reader process from the first frame until it is left.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._open_resources = ExitStack()
        self._file = self._open_resources.enter_context(path.open("rb", buffering=0))
        self._reader: ReaderProcess | None = None

    def __enter__(self) -> Self:
        """The reader itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file and give the reader process back."""
        self._open_resources.close()

    def values(self, index: int) -> Pixels:
        """Stored values of one frame, counted from 0; shape (rows, columns).

        Raises:
            OSError: the file cannot be read now.
            ImageUnreadable: the frame cannot be decoded, or exceeds a limit of the reader.
        """
        if self._reader is None:
            self._reader = self._open_resources.enter_context(readers().lease())
        return _ask(self._reader, self._file, {"operation": "frame", "index": index}, _pixels)


Interpret = Callable[[ReaderProcess, Fields, int], T]
"""Turns a reader, its answer and the announced bytes of pixels into a result."""


def _read(path: Path, request: dict[str, Any], interpret: Interpret[T]) -> T:
    with path.open("rb", buffering=0) as file, readers().lease() as reader:
        return _ask(reader, file, request, interpret)


def _ask(reader: ReaderProcess, file: BinaryIO, request: dict[str, Any], interpret: Interpret[T]) -> T:
    fields, size = reader.ask(request, file)
    try:
        return interpret(reader, fields, size)
    except MalformedMessage:
        raise reader.reject_answer() from None


def _pixels(reader: ReaderProcess, fields: Fields, size: int) -> Pixels:
    return read_pixels(reader.memory, *read_pixel_document(fields, size))
