"""What goes from stage to stage in the analysis of a volume."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from inference.checking.input_check import InputCheck
from inference.findings import SourceImage
from inference.volumes.volume import Volume


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """One volume of a series."""

    volume: Volume
    prepared: Any = field(default=None, repr=False)
    """The preprocessed volume, of a type of the engine's own."""
    check: InputCheck = field(default_factory=InputCheck, repr=False)

    @property
    def source(self) -> SourceImage:
        """The slice in the middle."""
        return self.volume.source


@dataclass(frozen=True, kw_only=True)
class VolumeOutput:
    """What the networks gave for one volume, without tensors, so that another process can take it."""

    values: Any = field(repr=False)
    """Of a type of the engine's own."""
    inference_time_ms: float
