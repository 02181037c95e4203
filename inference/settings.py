"""Settings of one engine: the ``[[engine]]`` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from inference.errors import EngineMisconfigured


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How one engine is to run.

    ``model`` is a name in the model store, a folder or a file, or ``demo``. ``device`` is ``auto``,
    ``cpu``, ``cuda`` or ``cuda:N``; ``backend`` is ``auto``, ``torch`` or ``openvino``; ``precision``
    is ``auto``, ``fp32``, ``bf16`` or ``fp16``. ``options`` are the engine kind's own keys.
    """

    name: str
    kind: str
    model: str
    device: str = "auto"
    backend: str = "auto"
    precision: str = "auto"
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    def check_options(self, known: Sequence[str]) -> None:
        """Refuse options that the engine kind does not have.

        Raises
        ------
        EngineMisconfigured
            If there is one.
        """
        unknown = sorted(set(self.options) - set(known))
        if unknown:
            raise EngineMisconfigured(
                f"engine {self.name!r}: {self.kind} has no option {unknown[0]!r}; it has {', '.join(known)}."
            )
