"""Sliding windows over a volume: where they lie, how they are blended, and test-time augmentation.

Axes are (slice, row, column). There are three families of blending weights: those of PIVOT's "Inference Guide"
(``gaussian``, whose standard deviation is a fraction of the patch; ``linear``; ``average``), those of PIVOT's own
code (``pivot_gaussian``, ``pivot_linear``) and nnU-Net's (``nnunet``).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from math import ceil
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from torch import Tensor

from inference.errors import is_out_of_memory
from inference.running.batches import in_batches

log = logging.getLogger("overread.inference")

Blending = Literal["gaussian", "linear", "average", "pivot_gaussian", "pivot_linear", "nnunet"]
Size = tuple[int, int, int]
Predict = Callable[[Tensor], Tensor]
"""Maps windows (n, 1, slices, rows, columns) on the device to maps (n, channels, slices, rows, columns)."""

SMALLEST_WEIGHT = 1e-3
"""Smallest blending weight, so that no sum of weights is 0 at the edge of a volume; the same as in MONAI's inferer."""


@dataclass(frozen=True, kw_only=True)
class Augmentation:
    """A flip along ``flips``, then ``turns`` quarter turns in the plane of two axes; axes are 0 to 2."""

    flips: tuple[int, ...] = ()
    plane: tuple[int, int] = (0, 1)
    turns: int = 0

    def apply(self, windows: Tensor) -> Tensor:
        """Augmented windows; their last three axes are (slice, row, column)."""
        first = windows.dim() - 3
        flipped = windows.flip([first + axis for axis in self.flips]) if self.flips else windows
        return torch.rot90(flipped, self.turns, [first + axis for axis in self.plane])

    def undo(self, maps: Tensor) -> Tensor:
        """Maps of augmented windows, turned and flipped back exactly."""
        first = maps.dim() - 3
        turned = torch.rot90(maps, -self.turns, [first + axis for axis in self.plane])
        return turned.flip([first + axis for axis in self.flips]) if self.flips else turned


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip_x": Augmentation(flips=(2,)),
    "flip_y": Augmentation(flips=(1,)),
    "flip_z": Augmentation(flips=(0,)),
    "rotate_90_xy": Augmentation(plane=(1, 2), turns=1),
    "rotate_90_xz": Augmentation(plane=(0, 2), turns=1),
    "rotate_90_yz": Augmentation(plane=(0, 1), turns=1),
}
"""Augmentations by name, as in PIVOT's "Inference Guide": x are columns, y rows, z slices. Rotations need cubes."""


def window_starts(length: int, patch: int, stride: int) -> list[int]:
    """Where windows start along one axis; the last one ends at the volume's end."""
    if length <= patch:
        return [0]
    return [*range(0, length - patch, stride), length - patch]


def even_window_starts(length: int, patch: int) -> list[int]:
    """Where nnU-Net's windows start along one axis: evenly spaced, at most half a window apart."""
    steps = max(0, ceil((length - patch) / (patch / 2)))
    return [round((length - patch) / steps * step) for step in range(steps + 1)] if steps else [0]


def window_weights(patch: Size, blending: Blending, sigma: float = 0.125) -> NDArray[np.float32]:
    """Blending weights of a window's voxels, shape ``patch``, at most 1.

    Weights are the product of one factor for each axis, with i the voxel and n the length:

    - ``gaussian``: exp(-((i - c) / (sigma n))^2 / 2) with c = (n - 1) / 2.
    - ``linear``: distance to the nearer end, divided by the largest such distance.
    - ``average``: 1.
    - ``pivot_gaussian``: exp(-0.5 ((i - n/2) / (0.25 n))^2); the product is divided by its maximum.
    - ``pivot_linear``: max(0, 1 - |i - n/2| / (n/2)).
    - ``nnunet``: SciPy's Gaussian filter of a peak at n // 2; the product is divided by its maximum.
    """
    axes = [_axis_weights(n, blending, sigma) for n in patch]
    weights = axes[0][:, None, None] * axes[1][None, :, None] * axes[2][None, None, :]
    if blending in ("pivot_gaussian", "nnunet"):
        weights = weights / weights.max()
    return weights.astype(np.float32)


def _axis_weights(n: int, blending: Blending, sigma: float) -> NDArray[np.float64]:
    i = np.arange(n, dtype=np.float64)
    if blending == "gaussian":
        return np.exp(-0.5 * ((i - (n - 1) / 2) / (sigma * n)) ** 2)
    if blending == "nnunet":
        return np.asarray(gaussian_filter1d((i == n // 2).astype(np.float64), sigma * n, mode="constant"))
    if blending == "linear":
        return np.minimum(i + 1, n - i) / np.ceil(n / 2)
    if blending == "pivot_gaussian":
        return np.exp(-0.5 * ((i - n / 2) / (0.25 * n)) ** 2)
    if blending == "pivot_linear":
        return np.maximum(0.0, 1 - np.abs(i - n / 2) / (n / 2))
    return np.ones(n)


def sliding_window(
    volume: NDArray[np.float32],
    predict: Predict,
    *,
    patch: Size,
    stride: Size | None,
    batch_size: int,
    channels: int,
    blending: Blending = "gaussian",
    sigma: float = 0.125,
    augmentations: Sequence[Augmentation] = (),
    device: str = "cpu",
    whole_strides: bool = False,
) -> NDArray[np.float32]:
    """Blended maps of a volume, shape (channels, slices, rows, columns).

    A volume smaller than a window is padded with zeros on both sides. The volume and its maps are on the device, and
    copied once. If its memory is too small for them, they are on the CPU and only windows are on the device.

    Args:
        volume: values, axes (slice, row, column).
        predict: the network.
        patch: size of a window.
        stride: distance between windows; None spreads them evenly, as nnU-Net does.
        batch_size: windows in one pass; fewer are taken if the device's memory is too small.
        channels: channels of the maps.
        blending: how overlapping windows are weighted.
        sigma: of the Gaussian weights, as a fraction of the window.
        augmentations: each adds one prediction to the mean.
        device: where windows are predicted.
        whole_strides: pad the volume until all steps between windows are whole strides, as PIVOT does. Otherwise the
            last step may be shorter.
    """
    size = [max(n, p) for n, p in zip(volume.shape, patch, strict=True)]
    if whole_strides and stride is not None:
        size = [p + -(-(n - p) // s) * s for n, p, s in zip(size, patch, stride, strict=True)]
    padded, offset = _pad_to(volume, size)
    weights = window_weights(patch, blending, sigma)
    weights = np.maximum(weights, weights[weights > 0].min() if blending == "nnunet" else SMALLEST_WEIGHT)
    lengths = zip(padded.shape, patch, strict=True)
    starts_by_axis = (
        [even_window_starts(n, p) for n, p in lengths]
        if stride is None
        else [window_starts(n, p, s) for (n, p), s in zip(lengths, stride, strict=True)]
    )
    windows = _Windows(
        places=list(product(*starts_by_axis)),
        patch=patch,
        weights=torch.from_numpy(weights),
        batch_size=batch_size,
        augmentations=augmentations,
    )
    cells = torch.from_numpy(padded)
    try:
        blended = windows.blended(cells.to(device), predict, channels, device)
    except RuntimeError as error:
        if device == "cpu" or not is_out_of_memory(error):
            raise
        log.warning("device_memory_short maps=on the CPU")
        blended = None
    if blended is None:
        blended = windows.blended(cells, predict, channels, device)
    original = tuple(slice(o, o + n) for o, n in zip(offset, volume.shape, strict=True))
    return blended[(slice(None), *original)].cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class _Windows:
    """Windows over a volume, and how their maps become one."""

    places: Sequence[tuple[int, ...]]
    """The first voxel of each."""
    patch: Size
    weights: Tensor
    """Of the windows' voxels, on the CPU."""
    batch_size: int
    augmentations: Sequence[Augmentation]

    def blended(self, cells: Tensor, predict: Predict, channels: int, device: str) -> Tensor:
        """The blended maps of a padded volume, shape (channels, slices, rows, columns), where its cells are.

        Args:
            cells: the values of the padded volume, on the device or on the CPU.
            predict: the network.
            channels: channels of the maps.
            device: where windows are predicted.
        """
        # NumPy works on the CPU in this thread alone: torch's threads would wait for each other at every window.
        total = _own_arrays(cells.new_zeros((channels, *cells.shape)))
        norm = _own_arrays(torch.zeros_like(cells))
        weights = _own_arrays(self.weights.to(cells.device))
        source = _own_arrays(cells)
        stack = torch.stack if isinstance(source, Tensor) else np.stack

        def run(chosen: Sequence[tuple[int, ...]]) -> Tensor:
            batch = torch.as_tensor(stack([source[self._part(place)] for place in chosen]))[:, None].to(
                device
            )
            maps = predict(batch)
            for augmentation in self.augmentations:
                maps = maps + augmentation.undo(predict(augmentation.apply(batch)))
            if self.augmentations:
                maps = maps / (1 + len(self.augmentations))
            return maps.float().to(cells.device)

        for chosen, maps in in_batches(self.places, self.batch_size, run):
            for place, window in zip(chosen, _own_arrays(maps), strict=True):
                part = self._part(place)
                total[(slice(None), *part)] += window * weights
                norm[part] += weights
        total /= norm
        return torch.as_tensor(total)

    def _part(self, place: Sequence[int]) -> tuple[slice, ...]:
        return tuple(slice(start, start + length) for start, length in zip(place, self.patch, strict=True))


def _own_arrays(values: Tensor) -> Any:
    """The same values as NumPy's array if they are on the CPU, else as they are."""
    return values.numpy() if values.device.type == "cpu" else values


def whole_volume(
    volume: NDArray[np.float32],
    predict: Predict,
    *,
    multiple: int,
    channels: int,
    augmentations: Sequence[Augmentation] = (),
    device: str = "cpu",
) -> NDArray[np.float32]:
    """Maps of a volume in one pass, shape (channels, slices, rows, columns).

    The volume is padded with zeros until each axis is a multiple of ``multiple``. Rotations among the
    ``augmentations`` pad it to a cube.
    """
    size = [-(-n // multiple) * multiple for n in volume.shape]
    cubic = any(augmentation.turns for augmentation in augmentations)
    patch = (max(size),) * 3 if cubic else (size[0], size[1], size[2])
    return sliding_window(
        volume,
        predict,
        patch=patch,
        stride=patch,
        batch_size=1,
        channels=channels,
        blending="average",
        augmentations=augmentations,
        device=device,
    )


def _pad_to(
    volume: NDArray[np.float32], size: Sequence[int]
) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
    missing = [wanted - n for n, wanted in zip(volume.shape, size, strict=True)]
    if not any(missing):
        return volume, (0, 0, 0)
    before = [m // 2 for m in missing]
    padding = [(b, m - b) for b, m in zip(before, missing, strict=True)]
    return np.pad(volume, padding), (before[0], before[1], before[2])
