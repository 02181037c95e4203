"""What goes from stage to stage in the analysis of a volume."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from inference.checking.input_check import InputCheck
from inference.findings import SourceImage
from inference.volumes.volume import Volume


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """One volume of a series."""

    volume: Volume
    inputs: NDArray[np.float32] | None = field(default=None, repr=False)
    """What only the networks need, shape (slices, rows, columns); None once they have run."""
    prepared: Any = field(default=None, repr=False)
    """What the networks and the conclusion need besides, of a type of the engine's own."""
    check: InputCheck = field(default_factory=InputCheck, repr=False)

    @property
    def source(self) -> SourceImage:
        """The slice in the middle."""
        return self.volume.source

    @property
    def network_inputs(self) -> NDArray[np.float32]:
        """The inputs, for the networks.

        Raises:
            ValueError: the case is without them.
        """
        if self.inputs is None:
            raise ValueError("the case is without its networks' inputs")
        return self.inputs

    def without_inputs(self) -> Self:
        """The case as it is concluded, without what only the networks need."""
        return replace(self, inputs=None)


@dataclass(frozen=True, kw_only=True)
class VolumeOutput:
    """What the networks gave for one volume, without tensors, so that another process can take it."""

    values: Any = field(repr=False)
    """Of a type of the engine's own."""
    inference_time_ms: float
