"""Settings of one engine: the ``[[engine]]`` table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from inference.errors import EngineMisconfigured


class EngineOptions(BaseModel):
    """What an engine kind has of its own in an ``[[engine]]`` table; each kind derives a model from this one."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


Options = TypeVar("Options", bound=EngineOptions)


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

    def checked(self, model: type[Options]) -> Options:
        """The options, as the engine kind's model of them has them.

        Raises
        ------
        EngineMisconfigured
            If one of them is wrong, or none of the kind's.
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
