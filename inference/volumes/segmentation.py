"""Segmentations of the stored frames, from label maps of slices or of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference.findings import Segmentation, SourceImage, Structure
from inference.reading.frame import Frame
from inference.volumes.resampling import to_frames
from inference.volumes.volume import Grid

if TYPE_CHECKING:
    from inference.store.card_parts import CardStructure


def segmentation_of(
    labels: NDArray[np.unsignedinteger],
    frames: Sequence[Frame],
    structures: Sequence[Structure],
) -> Segmentation | None:
    """The segmentation of stored frames from label maps of slices; tiles of a mosaic return to their places.

    Args:
        labels: shape (slices, rows, columns).
        frames: the slices, in the same order.
        structures: those that the labels may contain.

    Returns:
        A segmentation without the frames and structures that have no label; None if no frame has one.
    """
    stored: dict[tuple[str, int | None], tuple[SourceImage, NDArray[np.unsignedinteger]]] = {}
    for label_map, frame in zip(labels, frames, strict=True):
        if not label_map.any():
            continue
        key = (frame.source.sop_instance_uid, frame.source.frame)
        if key not in stored:
            stored[key] = (
                frame.source,
                np.zeros((frame.source.rows, frame.source.columns), dtype=labels.dtype),
            )
        row, column = frame.origin
        stored[key][1][row : row + frame.rows, column : column + frame.columns] = label_map
    if not stored:
        return None
    present = set(np.unique(np.concatenate([np.unique(m) for _, m in stored.values()])).tolist())
    return Segmentation(
        images=tuple(image for image, _ in stored.values()),
        labels=np.stack([label_map for _, label_map in stored.values()]),
        structures=tuple(s for s in structures if s.value in present),
    )


def labelled_segmentation(
    labels: NDArray[np.uint16], grid: Grid, frames: Sequence[Frame], structures: Sequence[CardStructure]
) -> Segmentation | None:
    """The segmentation of slices from a label map on a grid, with the volume of each structure."""
    counts = np.bincount(labels.ravel(), minlength=max((s.value for s in structures), default=0) + 1)
    with_volumes = [
        Structure(
            value=s.value,
            name=s.name,
            category=None if s.category is None else s.category.as_finding(),
            type=None if s.type is None else s.type.as_finding(),
            volume_mm3=float(counts[s.value]) * grid.voxel_mm3,
        )
        for s in structures
    ]
    return segmentation_of(to_frames(labels, grid.affine, frames), frames, with_volumes)
