"""Modality values of slices (Hounsfield units for CT), read directly into one array."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from inference.errors import ImageUnreadable
from inference.reading.files import FrameReader
from inference.reading.frame import Frame, PixelLayout

Values = NDArray[np.float32] | NDArray[np.int16]
_INT16 = np.iinfo(np.int16)


def load(frames: Sequence[Frame], *, threads: int = 2) -> Values:
    """Modality values of slices, in the given order; shape (slices, rows, columns).

    The array is int16 if all slopes are 1, all intercepts are whole numbers and every value fits; this is the case
    for most CT. Otherwise it is float32.

    Raises:
        OSError: a file cannot be opened or read.
        ImageUnreadable: pixels cannot be decoded.
    """
    if all(frame.slope == 1 and frame.intercept == round(frame.intercept) for frame in frames):
        try:
            return _load_into(frames, np.empty(_shape(frames), dtype=np.int16), threads)
        except OverflowError:
            pass  # rare: read again as float32
    return _load_into(frames, np.empty(_shape(frames), dtype=np.float32), threads)


def _shape(frames: Sequence[Frame]) -> tuple[int, int, int]:
    return len(frames), frames[0].rows, frames[0].columns


def _load_into(frames: Sequence[Frame], values: Values, threads: int) -> Values:
    def fill(files: Sequence[Sequence[tuple[int, Frame]]]) -> None:
        for part in files:
            with closing(_stored_values(part)) as read:
                for index, stored in read:
                    _convert_to_modality(stored, frames[index], values[index])

    frames_by_file = [
        list(part) for _, part in groupby(enumerate(frames), key=lambda item: item[1].source.path)
    ]
    shares = [frames_by_file[start :: 4 * threads] for start in range(4 * threads)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(fill, shares))
    return values


def same_pixels(one: Frame, other: Frame) -> bool:
    """Whether two slices hold the same stored values.

    Raises:
        OSError: a file cannot be opened or read.
        ImageUnreadable: pixels cannot be decoded.
    """
    first, second = (load([frame], threads=1) for frame in (one, other))
    return bool(np.array_equal(first, second))


def _stored_values(part: Sequence[tuple[int, Frame]]) -> Generator[tuple[int, NDArray[np.integer]]]:
    """Stored values of slices that lie in one file, each with its index."""
    with ExitStack() as resources:
        reader: FrameReader | None = None
        whole: tuple[int | None, NDArray[np.integer]] | None = None
        for index, frame in part:
            if frame.pixels is not None:
                yield index, _read_native(frame, frame.pixels)
                continue
            reader = reader or resources.enter_context(FrameReader(frame.source.path))
            if whole is None or whole[0] != frame.source.frame:  # all tiles of a mosaic are in one frame
                whole = frame.source.frame, reader.values((frame.source.frame or 1) - 1)
            row, column = frame.origin
            stored = whole[1][row : row + frame.rows, column : column + frame.columns]
            if stored.shape != (frame.rows, frame.columns):
                raise ImageUnreadable("a frame does not have the size that the header says")
            yield index, stored


def _read_native(frame: Frame, layout: PixelLayout) -> NDArray[np.integer]:
    dtype = np.dtype(layout.dtype)
    stored = np.empty((frame.rows, frame.columns), dtype=dtype)
    with frame.source.path.open("rb", buffering=0) as file:
        file.seek(layout.offset)
        if file.readinto(stored.data) != stored.nbytes:
            raise ImageUnreadable("the pixel data ends early")
    unused = 8 * dtype.itemsize - layout.bits_stored
    if unused:
        np.left_shift(stored, unused, out=stored)
        np.right_shift(stored, unused, out=stored)
    return stored


def _convert_to_modality(stored: NDArray[np.integer], frame: Frame, target: Values) -> None:
    if target.dtype == np.int16:
        intercept = int(frame.intercept)
        if not _INT16.min <= int(stored.min()) + intercept or int(stored.max()) + intercept > _INT16.max:
            raise OverflowError
        if stored.dtype.itemsize == 2:
            # In two's complement, a sum that fits is right for signed and unsigned cells.
            np.add(stored.view(np.int16), np.int16(intercept), out=target)
        else:
            np.add(stored, intercept, out=target, casting="unsafe")
        return
    np.multiply(stored, np.float32(frame.slope), out=target, casting="unsafe")
    if frame.intercept:
        np.add(target, np.float32(frame.intercept), out=target)
