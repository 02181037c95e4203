"""The options of the built-in engine kinds in ``[engine.options]``, except those of lung_nodule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from inference import findings
from inference.settings import EngineOptions
from inference.store.card_parts import Thresholds

Pixels = Annotated[int, Field(ge=0)]


class FindingOptions(EngineOptions):
    """Options of every kind whose model has labels."""

    thresholds: dict[str, Thresholds] = Field(default_factory=dict)
    """Thresholds that replace those of the model card, by label name."""

    @property
    def limits(self) -> dict[str, findings.Thresholds]:
        """The thresholds by label name, in the type that results carry."""
        return {name: thresholds.as_finding() for name, thresholds in self.thresholds.items()}


def thresholds_of(options: EngineOptions) -> dict[str, findings.Thresholds]:
    """The thresholds that options set, by label; none for kinds whose options have no thresholds."""
    return options.limits if isinstance(options, FindingOptions) else {}


class ImageOptions(FindingOptions):
    """Options of the kinds for single images."""

    ensemble: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further models whose predictions are averaged with the first model's."""
    weights: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)] = ()
    """One weight for the first model and one for each of ``ensemble``; empty: all are equal."""
    scales: Annotated[tuple[Annotated[int, Field(ge=32)], ...], Field(strict=False)] = ()
    """Edges of the input in pixels, with one pass for each; empty: the model's own."""
    tta: bool = False
    """Average over the image, its mirror image, and a brighter and a darker copy."""
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


def image_options_of(options: EngineOptions) -> ImageOptions:
    """The options for single images; the defaults for kinds that have options of another sort."""
    return options if isinstance(options, ImageOptions) else ImageOptions()


class PrototypeOptions(FindingOptions):
    """Options of concept_prototype."""

    roi: Annotated[tuple[Pixels, Pixels, Pixels, Pixels], Field(strict=False)] | None = None
    """Region of interest: x, y, width, height in pixels of the source."""


class NnunetOptions(FindingOptions):
    """Options of nnunet and brain_mri."""

    tta: bool = True
    """Average over the mirror images that the model was trained with."""


class BundleOptions(FindingOptions):
    """Options of monai_bundle."""

    bundle: dict[str, Any] = Field(default_factory=dict)
    """Entries of the bundle's configuration that replace its own."""


class WholeBodyOptions(FindingOptions):
    """Options of whole_body_ct."""

    spacing: float = 1.5
    """1.5 or 3.0 mm; the model must be the bundle's one for that spacing."""

    @field_validator("spacing")
    @classmethod
    def _check_spacing(cls, value: float) -> float:
        if value not in (1.5, 3.0):
            raise ValueError(f"spacing is 1.5 or 3.0, not {value}")
        return value
