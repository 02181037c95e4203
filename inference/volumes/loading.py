"""Pixels of slices as modality values (Hounsfield units for CT), read straight into one array."""

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
    """Modality values of slices, shape (slices, rows, columns), in their order.

    int16 where slope and intercept are those of the usual CT and every value fits, else float32.

    Raises:
        OSError: a file cannot be opened or read.
        ImageUnreadable: pixels cannot be decoded.
    """
    if all(frame.slope == 1 and frame.intercept == round(frame.intercept) for frame in frames):
        try:
            return _load(frames, np.empty(_shape(frames), dtype=np.int16), threads)
        except OverflowError:
            pass  # rare: read again as floating point
    return _load(frames, np.empty(_shape(frames), dtype=np.float32), threads)


def _shape(frames: Sequence[Frame]) -> tuple[int, int, int]:
    return len(frames), frames[0].rows, frames[0].columns


def _load(frames: Sequence[Frame], values: Values, threads: int) -> Values:
    def fill(files: Sequence[Sequence[tuple[int, Frame]]]) -> None:
        for part in files:
            with closing(_stored(part)) as read:
                for index, stored in read:
                    _convert(stored, frames[index], values[index])

    by_file = [list(part) for _, part in groupby(enumerate(frames), key=lambda item: item[1].source.path)]
    shares = [by_file[start :: 4 * threads] for start in range(4 * threads)]
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


def _stored(part: Sequence[tuple[int, Frame]]) -> Generator[tuple[int, NDArray[np.integer]]]:
    """Stored values of slices that lie in one file."""
    with ExitStack() as held:
        reader: FrameReader | None = None
        whole: tuple[int | None, NDArray[np.integer]] | None = None
        for index, frame in part:
            if frame.pixels is not None:
                yield index, _native(frame, frame.pixels)
                continue
            reader = reader or held.enter_context(FrameReader(frame.source.path))
            if whole is None or whole[0] != frame.source.frame:  # the tiles of a mosaic are one frame
                whole = frame.source.frame, reader.values((frame.source.frame or 1) - 1)
            row, column = frame.origin
            stored = whole[1][row : row + frame.rows, column : column + frame.columns]
            if stored.shape != (frame.rows, frame.columns):
                raise ImageUnreadable("a frame has not the size that the header says")
            yield index, stored


def _native(frame: Frame, layout: PixelLayout) -> NDArray[np.integer]:
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


def _convert(stored: NDArray[np.integer], frame: Frame, target: Values) -> None:
    if target.dtype == np.int16:
        intercept = int(frame.intercept)
        if not _INT16.min <= int(stored.min()) + intercept or int(stored.max()) + intercept > _INT16.max:
            raise OverflowError
        if stored.dtype.itemsize == 2:
            # In two's complement the sum that fits is right whatever the sign of the cells.
            np.add(stored.view(np.int16), np.int16(intercept), out=target)
        else:
            np.add(stored, intercept, out=target, casting="unsafe")
        return
    np.multiply(stored, np.float32(frame.slope), out=target, casting="unsafe")
    if frame.intercept:
        np.add(target, np.float32(frame.intercept), out=target)
