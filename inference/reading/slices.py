"""The slices in a series' files: classic single frames, Enhanced multi-frame images, Siemens mosaics.

Headers of native files are read here, by a reader with bounded effort. All other files go to the reader process.

References: DICOM PS3.3 sections C.7.6.2 (Image Plane), C.7.6.16.2 (functional group macros).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.errors import ImageUnreadable
from inference.reading import files as reading
from inference.reading.classic import classic_frame, layout_of, number_of
from inference.reading.frame import Frame
from inference.reading.header import quick_header


@dataclass(frozen=True, kw_only=True)
class SeriesFrames:
    """The slices in a series' files, in the order of the files, and why each other file was refused."""

    frames: tuple[Frame, ...]
    refused: dict[Path, str]


def frames_of_files(files: Sequence[Path]) -> SeriesFrames:
    """The slices in files, with their geometry and without their pixels.

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
        if number_of(quick.values, "NumberOfFrames", 1) != 1:
            return reading.read_frames(path)
        layout = layout_of(quick.values, quick.pixel_offset, quick.pixel_bytes)
        if layout is not None:
            return [classic_frame(path, quick.values, layout)]
    return reading.read_frames(path)
