"""The protocols that every engine kind and its prepared inputs satisfy.

Nothing here imports torch: planning calls :meth:`Engine.select` in processes that never load a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, runtime_checkable

from inference.findings import Analysis, ModelIdentity, Refusal, SourceImage
from inference.headers import ImageHeader, Selection

if TYPE_CHECKING:
    from inference.settings import EngineOptions, EngineSettings
    from inference.store import ModelStore


class Case(Protocol):
    """One prepared input of an engine; each engine adds the fields that it needs."""

    @property
    def source(self) -> SourceImage:
        """The image that the case comes from; of a volume, the slice in the middle."""


class Engine(Protocol):
    """Turns images into findings; loaded once and used for many jobs."""

    kind: ClassVar[str]
    """Value of ``kind`` in the configuration."""
    options: ClassVar[type[EngineOptions]]
    """Model of the configuration keys that only this kind has."""
    header_keywords: ClassVar[frozenset[str]]
    """Attributes that :meth:`select` reads; the receiver indexes them."""
    takes_series: ClassVar[bool]
    """True if the files of a series are one input, False if each file is one."""
    batch_size: ClassVar[int]
    """Most jobs that are inferred at once."""

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """Choose the inputs among the images of one series, without loading a model or torch."""

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model onto its device and warm it up.

        Raises:
            inference.errors.ModelAbsent: the model is not in the store.
            inference.errors.ModelInvalid: the model does not fit its card or this engine.
            inference.errors.EngineMisconfigured: the settings ask for something that this machine does not have.
        """

    @property
    def settings(self) -> EngineSettings:
        """The settings that the engine was loaded with."""

    @property
    def device(self) -> str:
        """Device that the engine runs on, for example ``cpu`` or ``cuda:0 NVIDIA H200``."""

    @property
    def model(self) -> ModelIdentity:
        """The model that makes the results."""

    def prepare(self, files: Sequence[Path]) -> Sequence[Case | Refusal]:
        """Decode and preprocess the files of one job, in order, on the CPU; thread-safe.

        Raises:
            OSError: a file cannot be opened or read now; a damaged file is refused instead.
        """

    def infer(self, cases: Sequence[Any]) -> list[Analysis]:
        """Analyse cases that this engine prepared, possibly of several jobs, as one batch.

        Returns:
            One analysis for each case, in order.
        """


@runtime_checkable
class StagedEngine(Engine, Protocol):
    """An engine whose work can be divided among processes; all kinds of this package are.

    :meth:`Engine.prepare` and :meth:`conclude` then run in processes without networks, which get the engine by
    :meth:`without_networks`, and only :meth:`run` in the one that holds the device. :meth:`Engine.infer` is ``run``
    followed by ``conclude``. Engines without these methods prepare and infer in the worker itself.
    """

    def without_networks(self) -> Self:
        """A copy for other processes: it can be pickled, prepares and concludes, and holds nothing on a device."""

    def run(self, cases: Sequence[Any]) -> list[Any]:
        """Run the networks on prepared cases as one batch, and nothing else that could be done elsewhere.

        Returns:
            What the networks say of each case, in order; it can be pickled and holds nothing on a device.
        """

    def conclude(self, case: Any, output: Any) -> Analysis:
        """The analysis of a case from what the networks say of it.

        Args:
            case: a prepared case; what only :meth:`run` needs may be missing, see ``StagedCase``.
            output: an element of the result of :meth:`run`.
        """


@runtime_checkable
class StagedCase(Case, Protocol):
    """A case that can shed what only the networks need, before it goes to the process that concludes it."""

    def without_inputs(self) -> Self:
        """The case without the networks' inputs."""
