"""The options of a lung_nodule engine, named and preset as in the seed document on nodules."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, field_validator

from inference.engines.options import FindingOptions
from inference.settings import EngineOptions


class _Options(EngineOptions):
    model_config = ConfigDict(strict=False)


Augmentation = Literal["flip_x", "flip_y", "flip_z", "rotate_90_xy", "rotate_90_xz", "rotate_90_yz"]
Patch = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class BlendingOptions(_Options):
    method: Literal["gaussian", "linear", "average", "pivot_gaussian", "pivot_linear"] = "gaussian"
    sigma: float = Field(default=0.125, gt=0)


class TtaOptions(_Options):
    enabled: bool = False
    augmentations: tuple[Augmentation, ...] = get_args(Augmentation)
    num_augmentations: int | None = Field(default=None, gt=0)
    """How many of the augmentations are used at most, the first ones; None: all."""

    @property
    def chosen(self) -> tuple[Augmentation, ...]:
        """The augmentations to use."""
        return self.augmentations[: self.num_augmentations] if self.enabled else ()


class PeakOptions(_Options):
    method: Literal["local_maxima", "nms", "maximum_filter"] = "local_maxima"
    threshold: float = Field(default=0.5, ge=0, le=1)
    min_distance: float = Field(default=10.0, gt=0)
    kernel: int = Field(default=5, gt=0)

    @field_validator("kernel")
    @classmethod
    def _has_a_middle(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"the kernel has to be odd, not {kernel}")
        return kernel


class NmsOptions(_Options):
    enabled: bool = True
    iou_threshold: float = Field(default=0.3, gt=0, le=1)


class SizeOptions(_Options):
    min_diameter: float = Field(default=3.0, ge=0)
    max_diameter: float = Field(default=30.0, gt=0)


class ConfidenceOptions(_Options):
    min_confidence: float = Field(default=0.3, ge=0, le=1)


class NoduleOptions(FindingOptions):
    model_config = ConfigDict(strict=False)

    """``[engine.options]`` of a lung_nodule engine; the defaults are the seed document's.

    Distances and diameters are in mm, patches and strides in voxels of the model's spacing.
    """

    mode: Literal["sliding_window", "whole_volume"] = "sliding_window"
    patch_size: Patch | None = None
    stride: Patch | None = None
    overlap: float = Field(default=0.5, ge=0, lt=1)
    padding: Literal["patch", "stride"] = "patch"
    """Volumes are padded to one patch, or as in PIVOT to whole strides, so that every step is one."""
    batch_size: int = Field(default=4, gt=0)
    blending: BlendingOptions = BlendingOptions()
    tta: TtaOptions = TtaOptions()
    peak_detection: PeakOptions = PeakOptions()
    components: Literal["split", "whole"] = "split"
    """Several peaks in one component of the mask split it, or each has all of it, as in PIVOT."""
    nms: NmsOptions = NmsOptions()
    size_filter: SizeOptions = SizeOptions()
    confidence_filter: ConfidenceOptions = ConfidenceOptions()
