"""The comparison of a reduced precision with fp32, by an engine's probabilities for phantoms."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from inference.errors import EngineMisconfigured
from inference.settings import EngineSettings

PRECISION_TOLERANCE = 0.01
"""Largest difference of a probability in a reduced precision from that in fp32."""

Probabilities = Sequence[NDArray[np.floating]]


def check_precision(
    settings: EngineSettings, model: str, reduced: Probabilities, exact: Probabilities
) -> None:
    """Compare a model's probabilities in a reduced precision with those in fp32 for the same inputs.

    Args:
        settings: of the engine, for the message.
        model: name of the model, for the message.
        reduced: arrays of probabilities, of labels or of voxels.
        exact: arrays of the same shapes.

    Raises:
        EngineMisconfigured: a probability differs by more than ``PRECISION_TOLERANCE``, or is NaN.
    """
    difference = float(np.max([np.abs(a - b).max() for a, b in zip(reduced, exact, strict=True)]))
    # Written so that NaN is refused too: fp16 makes it of values above 65504.
    if not difference <= PRECISION_TOLERANCE:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: with precision {settings.precision} the probabilities of model "
            f"{model!r} are up to {difference:.3f} from those of fp32, more than {PRECISION_TOLERANCE}; use fp32."
        )
