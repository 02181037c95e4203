"""Settings of one engine: the ``[[engine]]`` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


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
