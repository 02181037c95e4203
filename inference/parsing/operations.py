"""The operations of a reader process: parse a file, decode it, and describe the result in plain values."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from inference.parsing.parsed import parsed_frames
from inference.parsing.part10 import header_of, read_dataset
from inference.parsing.pictures import picture_cells
from inference.parsing.pixels import FrameDecoder, parsed_image
from inference.parsing.regions import drawn_region
from inference.reading.documents import frame_document, header_document, image_document, pixel_document

Result = tuple[dict[str, Any], NDArray[np.integer] | None]
Identity = tuple[int, int, int, int]


class Operations:
    """The operations by name. The parsed dataset of a multi-frame file is kept for its next frame."""

    def __init__(self) -> None:
        self._decoder: FrameDecoder | None = None
        self._decoded_file: Identity | None = None

    def run(self, request: dict[str, Any], file: BinaryIO) -> Result:
        """The answer to a request, and its pixels if it has any.

        Raises:
            ImageUnreadable: the file cannot be read; the message says why.
            MemoryError: the file needs more memory than this process may use.
            OSError: the file cannot be read now.
        """
        operations: dict[str, Callable[[dict[str, Any], BinaryIO], Result]] = {
            "image": self._image,
            "header": self._header,
            "frames": self._frames,
            "frame": self._frame,
            "region": self._region,
            "picture": self._picture,
        }
        return operations[request["operation"]](request, file)

    def _image(self, request: dict[str, Any], file: BinaryIO) -> Result:
        image = parsed_image(file, request["keywords"])
        return image_document(image), image.values

    def _header(self, request: dict[str, Any], file: BinaryIO) -> Result:
        return header_document(header_of(read_dataset(file), request["keywords"])), None

    def _frames(self, request: dict[str, Any], file: BinaryIO) -> Result:
        return {"frames": [frame_document(frame) for frame in parsed_frames(file)]}, None

    def _frame(self, request: dict[str, Any], file: BinaryIO) -> Result:
        status = os.fstat(file.fileno())
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        if self._decoder is None or self._decoded_file != identity:
            self._decoder = None  # free its memory before the next file needs some
            self._decoder, self._decoded_file = FrameDecoder(file), identity
        values = self._decoder.values(request["index"])
        if self._decoder.count == 1:
            self._decoder = None
        return pixel_document(values), values

    def _region(self, request: dict[str, Any], file: BinaryIO) -> Result:
        return {"box": list(drawn_region(file))}, None

    def _picture(self, request: dict[str, Any], file: BinaryIO) -> Result:
        values = picture_cells(file)
        return pixel_document(values), values
