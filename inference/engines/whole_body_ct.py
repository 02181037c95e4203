"""Structures of the whole body on CT: MONAI's whole-body bundle with TotalSegmentator's 104 structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from inference.engines.monai_bundle import MonaiBundleEngine
from inference.engines.options import WholeBodyOptions
from inference.settings import EngineOptions

FINE_MM = 1.5
"""Spacing for which the bundle's configuration sets ``highres``."""


class WholeBodyCtEngine(MonaiBundleEngine):
    """CT, with the bundle's model for one of its two spacings."""

    kind: ClassVar[str] = "whole_body_ct"
    modalities: ClassVar[tuple[str, ...]] = ("CT",)
    options: ClassVar[type[EngineOptions]] = WholeBodyOptions

    @property
    def replaced_entries(self) -> Mapping[str, Any]:
        """The bundle's entry ``highres``, by the option ``spacing``."""
        return {"highres": self.settings.checked(WholeBodyOptions).spacing == FINE_MM}
