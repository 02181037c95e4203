"""Files to images, slices and headers, by way of the reader process: how engines read what came from anywhere.

A file that crashes a decoder, makes it allocate without end or hang costs that process and not the worker; the
file is refused with the reason.
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
from inference.reading.wire import Nonsense, read_pixels

T = TypeVar("T")
Pixels = NDArray[np.integer]
LARGEST_COORDINATE = 1 << 31


def read_image(path: Path, keywords: Iterable[str] = ()) -> StoredImage:
    """Read a DICOM file with a single-frame grey image, and some attributes of its header.

    Raises:
        OSError: the file cannot be opened or read now.
        ImageUnreadable: it is no such file, cannot be decoded, or breaks the limits of reading.
    """
    request = {"operation": "image", "keywords": sorted(keywords)}
    return _read(
        path,
        request,
        lambda reader, fields, size: read_image_document(fields, path, _pixels(reader, fields, size)),
    )


def read_header(path: Path, keywords: Iterable[str]) -> ImageHeader:
    """The header of a DICOM file as an engine selects by it; raises like :func:`read_image`."""
    request = {"operation": "header", "keywords": sorted(keywords)}
    return _read(path, request, lambda _reader, fields, _size: read_header_document(fields))


def read_frames(path: Path) -> list[Frame]:
    """The slices of a DICOM file, without pixels; raises like :func:`read_image`."""
    return _read(
        path,
        {"operation": "frames"},
        lambda _reader, fields, _size: [
            read_frame_document(Fields(frame), path) for frame in fields.listed("frames", 0, MOST_FRAMES)
        ],
    )


def read_picture(path: Path) -> Pixels:
    """Luminance of a PNG or JPEG file, uint8 or uint16 (rows, columns); raises like :func:`read_image`."""
    return _read(path, {"operation": "picture"}, _pixels)


def read_region(path: Path) -> tuple[int, int, int, int]:
    """Column, row, width and height of what is drawn in a file; raises like :func:`read_image`."""

    def box(_reader: ReaderProcess, fields: Fields, _size: int) -> tuple[int, int, int, int]:
        left, top, width, height = fields.listed("box", 4, 4)
        checked = Fields({"left": left, "top": top, "width": width, "height": height})
        return (
            checked.whole("left", 0, LARGEST_COORDINATE),
            checked.whole("top", 0, LARGEST_COORDINATE),
            checked.whole("width", 1, LARGEST_COORDINATE),
            checked.whole("height", 1, LARGEST_COORDINATE),
        )

    return _read(path, {"operation": "region"}, box)


class FrameReader:
    """The frames of one grey DICOM file, decoded one at a time; holds one reader process meanwhile.

    Raises:
        OSError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._held = ExitStack()
        self._file = self._held.enter_context(path.open("rb", buffering=0))
        self._reader: ReaderProcess | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def values(self, index: int) -> Pixels:
        """Stored values of the frame with a 0-based index, shape (rows, columns).

        Raises:
            OSError: the file cannot be read now.
            ImageUnreadable: the frame cannot be decoded, or breaks the limits of reading.
        """
        if self._reader is None:
            self._reader = self._held.enter_context(readers().lease())
        return _asked(self._reader, self._file, {"operation": "frame", "index": index}, _pixels)


Understand = Callable[[ReaderProcess, Fields, int], T]


def _read(path: Path, request: dict[str, Any], understand: Understand[T]) -> T:
    with path.open("rb", buffering=0) as file, readers().lease() as reader:
        return _asked(reader, file, request, understand)


def _asked(reader: ReaderProcess, file: BinaryIO, request: dict[str, Any], understand: Understand[T]) -> T:
    fields, size = reader.ask(request, file)
    try:
        return understand(reader, fields, size)
    except Nonsense:
        raise reader.nonsense() from None


def _pixels(reader: ReaderProcess, fields: Fields, size: int) -> Pixels:
    return read_pixels(reader.memory, *read_pixel_document(fields, size))
