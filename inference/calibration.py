"""From a network's logits to probabilities, and on to calibrated ones."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logistic function, without overflow."""
    half = np.tanh(0.5 * logits.astype(np.float64))
    return 0.5 * (half + 1.0)


def normalise_operating_points(
    probabilities: NDArray[np.float64], operating_points: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Stretch probabilities so that each label's operating point becomes 0.5, as torchxrayvision does.

    Parameters
    ----------
    probabilities
        Shape (batch, labels), in [0, 1].
    operating_points
        Shape (labels,), in (0, 1); NaN leaves the label's probabilities as they are.
    """
    points = np.broadcast_to(operating_points, probabilities.shape)
    known = ~np.isnan(points)
    points = np.where(known, points, 0.5)
    below = probabilities / (2 * points)
    above = 1 - (1 - probabilities) / (2 * (1 - points))
    stretched = np.where(probabilities < points, below, above)
    return np.where(known, stretched, probabilities)
