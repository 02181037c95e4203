"""Sorts the slices of a series into stacks: one for each volume, in order along the normal.

A scanner may put several volumes into one series (echoes, phases, b-values, acquisitions). Slices that differ in
geometry or contrast always belong to different volumes. Numbers and times, such as Acquisition Number, separate only
slices at the same position, because many scanners give every slice an acquisition number of its own.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.reading.frame import Frame

SAME_PLACE_MM = 0.01
"""Slices nearer than this along the normal are at the same position."""

_ORIENTATION_DECIMALS = 3
_SPACING_DECIMALS = 4

_CONTRAST = ("EchoTime", "EchoNumbers", "DiffusionBValue")
"""Traits that always separate volumes."""
_TIEBREAKERS = (
    "TemporalPositionIdentifier",
    "TriggerTime",
    "ConvolutionKernel",
    "AcquisitionNumber",
    "AcquisitionTime",
    "ImageType",
)
"""Traits that separate slices at the same position, tried in this order."""
_MR_PARTS = frozenset({"M", "P", "R", "I", "MAGNITUDE", "PHASE", "REAL", "IMAGINARY"})


@dataclass(frozen=True, kw_only=True)
class Stack:
    """Parallel slices of one volume, ascending along the normal of the first one.

    ``remarks`` are sentences about what was left out.
    """

    frames: tuple[Frame, ...]
    remarks: tuple[str, ...] = ()

    @property
    def distances(self) -> NDArray[np.float64]:
        """Distance of each slice from the first along the normal, in mm; shape (slices,)."""
        plane = self.frames[0].plane
        return np.asarray((self._positions() - np.array(plane.position)) @ plane.normal)

    @property
    def offsets(self) -> NDArray[np.float64]:
        """How far each slice is shifted within its plane relative to the first one.

        Shape (slices, 2): mm along the column direction (where the row index grows) and along the row direction.
        """
        plane = self.frames[0].plane
        shift = self._positions() - np.array(plane.position)
        return np.stack(
            [shift @ np.array(plane.column_direction), shift @ np.array(plane.row_direction)], axis=1
        )

    def _positions(self) -> NDArray[np.float64]:
        return np.array([frame.plane.position for frame in self.frames])


def stacks_of(
    frames: Sequence[Frame], same_pixels: Callable[[Frame, Frame], bool]
) -> tuple[list[Stack], list[str]]:
    """The volumes of a series, and why slices belong to none.

    Args:
        frames: the slices.
        same_pixels: says whether two slices at the same position have the same pixels.

    Returns:
        The stacks, largest first, and the reasons why others were refused.
    """
    stacks: list[Stack] = []
    refused: list[str] = []
    for group in _grouped(frames, _appearance):
        for part in _separated(group, _TIEBREAKERS):
            stack = _without_repeats(part, same_pixels)
            if isinstance(stack, Stack):
                stacks.append(stack)
            else:
                refused.append(stack)
    return sorted(stacks, key=lambda s: len(s.frames), reverse=True), refused


def _appearance(frame: Frame) -> Hashable:
    """Geometry and contrast, which all slices of one volume share."""
    plane = frame.plane
    parts = [part for part in frame.trait("ImageType").split("\\")[2:] if part in _MR_PARTS]
    return (
        frame.rows,
        frame.columns,
        frame.frame_of_reference_uid,
        tuple(np.round(plane.spacing, _SPACING_DECIMALS).tolist()),
        tuple(np.round([*plane.row_direction, *plane.column_direction], _ORIENTATION_DECIMALS) + 0.0),
        tuple(parts),
        tuple(frame.trait(name) for name in _CONTRAST),
    )


def _grouped(frames: Iterable[Frame], key: Callable[[Frame], Hashable]) -> list[list[Frame]]:
    groups: dict[Hashable, list[Frame]] = defaultdict(list)
    for frame in frames:
        groups[key(frame)].append(frame)
    return list(groups.values())


def _separated(frames: Sequence[Frame], names: Sequence[str]) -> list[list[Frame]]:
    """Slices, separated by the first traits that leave no two at the same position."""
    ordered = _ordered(frames)
    if not names or not _repeated_places(ordered):
        return [ordered]
    groups = _grouped(frames, lambda frame: frame.trait(names[0]))
    rest = names[1:]
    # A trait whose value differs for every slice numbers slices, not volumes.
    if len(groups) == 1 or len(groups) == len(frames) > 2 or len({len(group) for group in groups}) > 1:
        return _separated(frames, rest)
    return [part for group in groups for part in _separated(group, rest)]


def _ordered(frames: Sequence[Frame]) -> list[Frame]:
    normal = frames[0].plane.normal
    return sorted(
        frames, key=lambda f: (round(float(np.array(f.plane.position) @ normal), 3), f.instance_number)
    )


def _repeated_places(ordered: Sequence[Frame]) -> list[int]:
    """Indices of slices at the position of the slice before."""
    normal = ordered[0].plane.normal
    heights = np.array([np.array(frame.plane.position) @ normal for frame in ordered])
    return [int(i) + 1 for i in np.flatnonzero(np.diff(heights) < SAME_PLACE_MM)]


def _without_repeats(ordered: Sequence[Frame], same_pixels: Callable[[Frame, Frame], bool]) -> Stack | str:
    """The stack without slices that were sent twice, or why slices at the same position are not the same."""
    repeats = _repeated_places(ordered)
    if not repeats:
        return Stack(frames=tuple(ordered))
    if not all(same_pixels(ordered[index - 1], ordered[index]) for index in repeats):
        return (
            f"{len(repeats)} of {len(ordered)} slices lie where others lie and show something else; "
            "nothing in the headers says which belong together"
        )
    left = set(repeats)
    kept = tuple(frame for index, frame in enumerate(ordered) if index not in left)
    return Stack(frames=kept, remarks=(f"{len(repeats)} slices were sent twice and used once",))
