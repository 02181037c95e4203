"""A reduced precision against fp32: how far the probabilities of any engine may move, on drawn inputs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.errors import EngineMisconfigured
from inference.settings import EngineSettings

PRECISION_TOLERANCE = 0.01
"""How far a probability in a reduced precision may be from that of fp32."""

Probabilities = Sequence[NDArray[np.floating]]


def check_precision(
    settings: EngineSettings, model: str, reduced: Probabilities, exact: Probabilities
) -> None:
    """Compare a model's probabilities for the same inputs, of labels or voxel by voxel, with those in fp32.

    Raises
    ------
    EngineMisconfigured
        If one is further away than ``PRECISION_TOLERANCE``, or is no number.
    """
    apart = float(np.max([np.abs(a - b).max() for a, b in zip(reduced, exact, strict=True)]))
    # Written so that NaN, which fp16 makes of values above 65504, is refused.
    if not apart <= PRECISION_TOLERANCE:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: with precision {settings.precision} the probabilities of model "
            f"{model!r} are up to {apart:.3f} from those of fp32, more than {PRECISION_TOLERANCE}; use fp32."
        )
