"""Structures of the whole body on CT: MONAI's whole-body bundle, which is TotalSegmentator's 104 structures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, Self

from inference.engines.monai_bundle import MonaiBundleEngine
from inference.errors import EngineMisconfigured

if TYPE_CHECKING:
    from inference.settings import EngineSettings
    from inference.store import ModelStore

RESOLUTIONS = {1.5: True, 3.0: False}
"""Spacing in mm by the bundle's entry ``highres``."""


class WholeBodyCtEngine(MonaiBundleEngine):
    """CT; ``spacing`` is 1.5 (default) or 3.0 mm, and the model has to be the bundle's for that spacing."""

    kind: ClassVar[str] = "whole_body_ct"
    modalities: ClassVar[tuple[str, ...]] = ("CT",)
    options: ClassVar[tuple[str, ...]] = ("thresholds", "spacing")

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        engine = super().load(settings, store)
        spacing = settings.options.get("spacing", 1.5)
        if spacing not in RESOLUTIONS:
            raise EngineMisconfigured(f"engine {settings.name!r}: spacing is 1.5 or 3.0, not {spacing}.")
        overrides: Mapping[str, Any] = {"highres": RESOLUTIONS[spacing]}
        engine.settings = replace(settings, options={**settings.options, "bundle": overrides})
        return engine
