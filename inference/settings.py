"""Settings of one engine: the ``[[engine]]`` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from inference.errors import EngineMisconfigured


class EngineOptions(BaseModel):
    """Base of the models for ``[engine.options]``; each engine kind derives its own."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Options = TypeVar("Options", bound=EngineOptions)


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How to run one engine."""

    name: str
    kind: str
    model: str
    """Name in the model store, path of a folder or a file, or ``demo``."""
    device: str = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``."""
    backend: str = "auto"
    """``auto``, ``torch`` or ``openvino``."""
    precision: str = "auto"
    """``auto``, ``fp32``, ``bf16`` or ``fp16``."""
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    """Keys that only the engine kind has."""

    def checked(self, model: type[Options]) -> Options:
        """The options, validated by the engine kind's model of them.

        Raises:
            EngineMisconfigured: an option has a wrong value, or the kind has no such option.
        """
        try:
            return model.model_validate(dict(self.options))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            message = f"options.{key}: {first['msg'].removeprefix('Value error, ')}"
            if first["type"] == "extra_forbidden" and len(first["loc"]) == 1:
                known = ", ".join(model.model_fields) or "none"
                message = f"{self.kind} has no option {key!r}; it has {known}"
            raise EngineMisconfigured(f"engine {self.name!r}: {message}.") from error
