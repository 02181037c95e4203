"""The options of the built-in engine kinds, those of lung_nodule apart: what an ``[[engine]]`` table may say."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from inference import findings
from inference.settings import EngineOptions
from inference.store.card_parts import Thresholds

Pixels = Annotated[int, Field(ge=0)]


class FindingOptions(EngineOptions):
    """Of every kind whose model has labels."""

    thresholds: dict[str, Thresholds] = Field(default_factory=dict)
    """Instead of the model's, by the label's name."""

    @property
    def limits(self) -> dict[str, findings.Thresholds]:
        """The thresholds by label, as results carry them."""
        return {name: thresholds.as_finding() for name, thresholds in self.thresholds.items()}


class ImageOptions(FindingOptions):
    """Of kinds for single images."""

    ensemble: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further models whose predictions are averaged with the first one's."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] = ()
    """One for the first model and each one of the ensemble; none: all the same."""
    scales: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(strict=False)] = ()
    """Sizes of the input in pixels, each a pass of its own; none: the model's."""
    tta: bool = False
    """Average over the image and its mirror image."""
    explanation: Literal["Grad-CAM", "Grad-CAM++", "Saliency", "Attention rollout", "SHAP"] | None = None

    @field_validator("weights")
    @classmethod
    def _check_weights(cls, value: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        members = 1 + len(info.data.get("ensemble", ()))
        if value and len(value) != members:
            raise ValueError(
                f"write one number for each of the {members} models, the first model and those of ensemble"
                if members > 1
                else "there is nothing to weigh: write ensemble, which names further models"
            )
        return value


class PrototypeOptions(FindingOptions):
    """Of concept_prototype."""

    roi: Annotated[tuple[Pixels, Pixels, Pixels, Pixels], Field(strict=False)] | None = None
    """Region of interest: x, y, width, height in pixels of the source."""


class NnunetOptions(FindingOptions):
    """Of nnunet and brain_mri."""

    tta: bool = True
    """Average over the mirror images that the model was trained with."""


class BundleOptions(FindingOptions):
    """Of monai_bundle."""

    bundle: dict[str, Any] = Field(default_factory=dict)
    """Entries of the bundle's configuration that replace its own."""


class WholeBodyOptions(FindingOptions):
    """Of whole_body_ct."""

    spacing: float = 1.5
    """1.5 or 3.0 mm; the model has to be the bundle's for that spacing."""

    @field_validator("spacing")
    @classmethod
    def _check_spacing(cls, value: float) -> float:
        if value not in (1.5, 3.0):
            raise ValueError(f"spacing is 1.5 or 3.0, not {value}")
        return value
