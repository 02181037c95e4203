"""What can be measured of an input before a network sees it: geometry, tissues of a CT, greys of a picture.

Everything is computed on a coarse sample, in milliseconds, and means something to a person. A model card says
which values it expects (``store/card.py``).
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
"""Above contrast-filled vessels of most phases; trabecular bone starts at about this."""
METAL_HU = 3000.0
"""Above the densest enamel."""
SOFT_TISSUE_HU = (-20.0, 100.0)
"""From water with its noise to clotted blood, without fat."""
LUNG_HU = (-950.0, -500.0)
"""Aerated lung, without emphysema and the air around the patient."""
MOST_SLICES, MOST_PIXELS = 48, 128
BLOCKS = 64
"""Blocks along the longer side of a slice over which soft tissue is averaged: 3 to 4 mm of a head."""
_QUARTILES_OF_A_DEVIATION = 1.349
"""Interquartile range of a normal distribution of standard deviation 1."""
PICTURE_SIZE = 64
GREYS = 32


def measures_of_volume(volume: Volume) -> dict[str, float]:
    """Figures of a volume; those in Hounsfield units for CT alone."""
    frame, gaps = volume.frames[0], volume.gaps
    down, across = frame.plane.spacing
    found = {
        "pixel_spacing_mm": max(down, across),
        "field_of_view_mm": min(down * frame.rows, across * frame.columns),
        "slices": float(len(volume.frames)),
    }
    if len(gaps):
        found["slice_spacing_mm"] = float(np.median(gaps))
        found["coverage_mm"] = float(gaps.sum())
    if frame.trait("Modality") == "CT":
        found |= measures_of_hounsfield(volume.values)
    return found


def measures_of_hounsfield(values: NDArray[np.generic]) -> dict[str, float]:
    """Shares of tissues of a CT, Hounsfield units of shape (slices, rows, columns).

    The body is everything denser than air, a table included; where there is none or no soft tissue, the
    figures about it are left out.
    """
    steps = [
        -(-n // most) for n, most in zip(values.shape, (MOST_SLICES, MOST_PIXELS, MOST_PIXELS), strict=True)
    ]
    some = values[:: steps[0]]
    sample = some[:, :: steps[1], :: steps[2]].astype(np.float32)
    body = sample > DENSER_THAN_AIR_HU
    found = {"body": float(body.mean())}
    if not body.any():
        return found
    box = sample[tuple(slice(at.min(), at.max() + 1) for at in np.nonzero(body))]
    inside = sample[body]
    low, high = SOFT_TISSUE_HU
    soft = (inside >= low) & (inside <= high)
    found |= {
        "air": float((box <= DENSER_THAN_AIR_HU).mean()),
        "lung": float(((box > LUNG_HU[0]) & (box <= LUNG_HU[1])).mean()),
        "bone": float((inside >= BONE_HU).mean()),
        "metal": float((inside >= METAL_HU).mean()),
        "soft_tissue": float(soft.mean()),
    }
    if soft.any():
        found["tissue_hu"] = float(np.median(inside[soft]))
        found |= _texture(some)
    return found


def _texture(slices: NDArray[np.generic]) -> dict[str, float]:
    """Structure and noise of the soft tissue: standard deviations between and within small blocks.

    Blocks that are soft tissue throughout count. The noise that is left in their means is taken off, so that a
    ball of one plastic has a structure near 0 HU; a head has brain, liquor and muscle.
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
    # The median of a sample variance lies below the variance (Wilson and Hilferty, 1931).
    within = float(np.median(chosen.var(axis=1, ddof=1))) / (1 - 2 / (9 * (size**2 - 1))) ** 3
    quarter, three_quarters = np.percentile(chosen.mean(axis=1), (25, 75))
    between = ((three_quarters - quarter) / _QUARTILES_OF_A_DEVIATION) ** 2
    return {"structure_hu": float(max(between - within / size**2, 0.0) ** 0.5), "noise_hu": within**0.5}


def measures_of_picture(brightness: Values) -> dict[str, float]:
    """Figures of a picture, brightness in [0, 1] of shape (rows, columns), reduced to 64 x 64 points."""
    small = resample(brightness, *(triangle_axis(n, PICTURE_SIZE) for n in brightness.shape))
    darkest, brightest = np.percentile(small, (5, 95))
    counts, _ = np.histogram(np.clip(small, 0, 1), bins=GREYS, range=(0, 1))
    shares = counts[counts > 0] / small.size
    found = {
        "brightness": float(small.mean()),
        "contrast": float(small.std()),
        "darkest": float(darkest),
        "brightest": float(brightest),
        "detail": float((np.abs(np.diff(small, axis=0)).mean() + np.abs(np.diff(small, axis=1)).mean()) / 2),
        "entropy_bits": float(abs((shares * np.log2(shares)).sum())),
    }
    if found["contrast"] > 0:
        found["symmetry"] = float(np.corrcoef(small.ravel(), small[:, ::-1].ravel())[0, 1])
    return found
