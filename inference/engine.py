"""What an engine is: the protocol that every engine kind satisfies, and the values that it takes and gives.

Nothing here needs torch: planning calls :meth:`Engine.select` in processes that never load a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self

from inference.findings import Analysis, ModelIdentity, Refusal, SourceImage
from inference.headers import ImageHeader, Selection

if TYPE_CHECKING:
    from inference.settings import EngineOptions, EngineSettings
    from inference.store import ModelStore


class Case(Protocol):
    """One prepared input of an engine; what else it holds is the engine's own affair."""

    @property
    def source(self) -> SourceImage: ...


class Engine(Protocol):
    """A way from images to findings, loaded once and kept.

    ``kind`` is what the configuration's ``kind`` says, ``options`` the model of what the kind has of its own
    there. ``header_keywords`` are the attributes that :meth:`select` looks at, so that receivers index them.
    ``takes_series`` says that the files of a series are one input, not one each. ``batch_size`` is how many jobs
    it infers at once.
    """

    kind: ClassVar[str]
    options: ClassVar[type[EngineOptions]]
    header_keywords: ClassVar[frozenset[str]]
    takes_series: ClassVar[bool]
    batch_size: ClassVar[int]

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """Choose the inputs among the images of one series. Loads no model and no torch."""

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model onto its device and warm it up.

        Raises
        ------
        inference.errors.ModelAbsent
            If the model is not in the store.
        inference.errors.ModelInvalid
            If the model does not fit its card or this engine.
        inference.errors.EngineMisconfigured
            If the settings ask for what this machine does not have.
        """

    @property
    def settings(self) -> EngineSettings:
        """What the engine was loaded with."""

    @property
    def device(self) -> str:
        """Where it runs, for example ``cpu`` or ``cuda:0 NVIDIA H200``."""

    @property
    def model(self) -> ModelIdentity:
        """Which model results are made with."""

    def prepare(self, files: Sequence[Path]) -> Sequence[Case | Refusal]:
        """Decode and preprocess the files of one job, in order, on the CPU; thread-safe.

        Raises
        ------
        OSError
            If a file cannot be opened or read now; a file that is damaged is refused.
        """

    def infer(self, cases: Sequence[Any]) -> list[Analysis]:
        """Analyse this engine's own cases, also of several jobs, as one batch; one analysis per case."""
