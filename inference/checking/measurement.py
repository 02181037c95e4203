"""Figures of an input, measured before a network sees it: geometry, tissues of a CT, greys of a picture.

They are computed on a coarse sample, in milliseconds, and have a meaning for a person. The model card says which
values it expects (``store/card.py``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from inference.images.resampling import resample, triangle_axis

if TYPE_CHECKING:
    from inference.volumes.volume import Volume

Values = NDArray[np.float32]

DENSER_THAN_AIR_HU = -400.0
"""Between lung (below -500 HU) and fat (-120 to -60 HU)."""
BONE_HU = 300.0
"""Above vessels with contrast medium in most phases; trabecular bone begins at about this value."""
METAL_HU = 3000.0
"""Above the densest enamel."""
SOFT_TISSUE_HU = (-20.0, 100.0)
"""From water, with its noise, to clotted blood; without fat."""
LUNG_HU = (-950.0, -500.0)
"""Aerated lung, without emphysema and without the air around the patient."""
MOST_SLICES, MOST_PIXELS = 48, 128
"""Slices of the sample, and its rows and columns."""
BLOCKS = 64
"""Blocks along the longer side of a slice in which soft tissue is averaged: 3 to 4 mm of a head."""
_NORMAL_INTERQUARTILE_RANGE = 1.349
"""Of a normal distribution with standard deviation 1."""
PICTURE_SIZE = 64
"""Rows and columns to which pictures are reduced."""
GREYS = 32
"""Bins of the histogram of greys."""


def measures_of_volume(volume: Volume) -> dict[str, float]:
    """The figures of a volume, by the names of ``measures.MEASURES``; those of tissues for CT only."""
    frame, gaps = volume.frames[0], volume.gaps
    down, across = frame.plane.spacing
    figures = {
        "pixel_spacing_mm": max(down, across),
        "field_of_view_mm": min(down * frame.rows, across * frame.columns),
        "slices": float(len(volume.frames)),
    }
    if len(gaps):
        figures["slice_spacing_mm"] = float(np.median(gaps))
        figures["coverage_mm"] = float(gaps.sum())
    if frame.trait("Modality") == "CT":
        figures |= measures_of_hounsfield(volume.values)
    return figures


def measures_of_hounsfield(values: NDArray[np.generic]) -> dict[str, float]:
    """The figures of a CT's tissues, from Hounsfield units of shape (slices, rows, columns).

    The body is everything denser than air, including the table. Without a body or without soft tissue, the figures
    about it are left out.
    """
    steps = [
        -(-n // most) for n, most in zip(values.shape, (MOST_SLICES, MOST_PIXELS, MOST_PIXELS), strict=True)
    ]
    slices = values[:: steps[0]]
    sample = slices[:, :: steps[1], :: steps[2]].astype(np.float32)
    body = sample > DENSER_THAN_AIR_HU
    figures = {"body": float(body.mean())}
    if not body.any():
        return figures
    box = sample[tuple(slice(axis.min(), axis.max() + 1) for axis in np.nonzero(body))]
    inside = sample[body]
    low, high = SOFT_TISSUE_HU
    soft = (inside >= low) & (inside <= high)
    figures |= {
        "air": float((box <= DENSER_THAN_AIR_HU).mean()),
        "lung": float(((box > LUNG_HU[0]) & (box <= LUNG_HU[1])).mean()),
        "bone": float((inside >= BONE_HU).mean()),
        "metal": float((inside >= METAL_HU).mean()),
        "soft_tissue": float(soft.mean()),
    }
    if soft.any():
        figures["tissue_hu"] = float(np.median(inside[soft]))
        figures |= _texture(slices)
    return figures


def _texture(slices: NDArray[np.generic]) -> dict[str, float]:
    """The structure and noise of soft tissue: its standard deviations between and within small blocks.

    Only blocks that are entirely soft tissue count. The noise of their means is subtracted, so that a ball of one
    plastic has a structure near 0 HU, unlike a head with brain, liquor and muscle.
    """
    size = max(2, max(slices.shape[1:]) // BLOCKS)
    rows, columns = (n // size for n in slices.shape[1:])
    blocks = slices[:, : rows * size, : columns * size].astype(np.float32)
    blocks = blocks.reshape(len(slices), rows, size, columns, size)
    low, high = SOFT_TISSUE_HU
    soft = ((blocks >= low) & (blocks <= high)).all(axis=(2, 4))
    if not soft.any():
        return {}
    chosen = blocks.transpose(0, 1, 3, 2, 4)[soft].reshape(-1, size * size)
    # The median of a sample variance is below the variance (Wilson and Hilferty, 1931).
    within = float(np.median(chosen.var(axis=1, ddof=1))) / (1 - 2 / (9 * (size**2 - 1))) ** 3
    quarter, three_quarters = np.percentile(chosen.mean(axis=1), (25, 75))
    between = ((three_quarters - quarter) / _NORMAL_INTERQUARTILE_RANGE) ** 2
    return {"structure_hu": float(max(between - within / size**2, 0.0) ** 0.5), "noise_hu": within**0.5}


def measures_of_picture(brightness: Values) -> dict[str, float]:
    """The figures of a picture, brightness in [0, 1] of shape (rows, columns), after reduction to 64 x 64 points."""
    small = resample(brightness, *(triangle_axis(n, PICTURE_SIZE) for n in brightness.shape))
    darkest, brightest = np.percentile(small, (5, 95))
    counts, _ = np.histogram(np.clip(small, 0, 1), bins=GREYS, range=(0, 1))
    shares = counts[counts > 0] / small.size
    figures = {
        "brightness": float(small.mean()),
        "contrast": float(small.std()),
        "darkest": float(darkest),
        "brightest": float(brightest),
        "detail": float((np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()) / 2),
        "entropy_bits": float(abs((shares * np.log2(shares)).sum())),
    }
    if figures["contrast"] > 0:
        figures["symmetry"] = float(np.corrcoef(small.ravel(), small[:, ::-1].ravel())[0, 1])
    return figures
