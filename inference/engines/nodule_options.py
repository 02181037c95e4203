"""The options of a lung_nodule engine, with the names and defaults of PIVOT's "Inference Guide"."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, field_validator

from inference.engines.options import FindingOptions
from inference.settings import EngineOptions


class _LenientOptions(EngineOptions):
    """Options that take lists for tuples and integers for floats, as TOML gives them."""

    model_config = ConfigDict(strict=False)


Augmentation = Literal["flip_x", "flip_y", "flip_z", "rotate_90_xy", "rotate_90_xz", "rotate_90_yz"]
Patch = tuple[Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)], Annotated[int, Field(gt=0)]]


class BlendingOptions(_LenientOptions):
    """How overlapping windows are weighted."""

    method: Literal["gaussian", "linear", "average", "pivot_gaussian", "pivot_linear"] = "gaussian"
    sigma: float = Field(default=0.125, gt=0)
    """Standard deviation of the weights by ``gaussian``, as a share of the patch."""


class TtaOptions(_LenientOptions):
    """Test-time augmentation."""

    enabled: bool = False
    augmentations: tuple[Augmentation, ...] = get_args(Augmentation)
    num_augmentations: int | None = Field(default=None, gt=0)
    """Use only the first ones, at most this many; None: all."""

    @property
    def chosen(self) -> tuple[Augmentation, ...]:
        """The augmentations to use."""
        return self.augmentations[: self.num_augmentations] if self.enabled else ()


class PeakOptions(_LenientOptions):
    """How peaks of the heat map are found."""

    method: Literal["local_maxima", "nms", "maximum_filter"] = "local_maxima"
    threshold: float = Field(default=0.5, ge=0, le=1)
    min_distance: float = Field(default=10.0, gt=0)
    """Between two peaks, in mm; for all methods but maximum_filter."""
    kernel: int = Field(default=5, gt=0)
    """Edge of the neighbourhood in voxels, odd; for maximum_filter."""

    @field_validator("kernel")
    @classmethod
    def _check_kernel(cls, kernel: int) -> int:
        if kernel % 2 == 0:
            raise ValueError(f"the kernel has to be odd, not {kernel}")
        return kernel


class NmsOptions(_LenientOptions):
    """Non-maximum suppression of overlapping candidates."""

    enabled: bool = True
    iou_threshold: float = Field(default=0.3, gt=0, le=1)


class SizeOptions(_LenientOptions):
    """Diameters of the nodules that are reported, in mm."""

    min_diameter: float = Field(default=3.0, ge=0)
    max_diameter: float = Field(default=30.0, gt=0)


class ConfidenceOptions(_LenientOptions):
    """Certainty of the nodules that are reported, in [0, 1]."""

    min_confidence: float = Field(default=0.3, ge=0, le=1)


class NoduleOptions(FindingOptions):
    """``[engine.options]`` of a lung_nodule engine.

    Distances and diameters are in mm; patches and strides are in voxels of the model's spacing.
    """

    model_config = ConfigDict(strict=False)

    mode: Literal["sliding_window", "whole_volume"] = "sliding_window"
    patch_size: Patch | None = None
    stride: Patch | None = None
    overlap: float = Field(default=0.5, ge=0, lt=1)
    padding: Literal["patch", "stride"] = "patch"
    """Pad volumes to the size of one patch, or to a whole number of strides as PIVOT does."""
    batch_size: Annotated[int, Field(gt=0)] | Literal["auto"] = "auto"
    """Windows in one pass; ``auto``: some for each core of a CPU, or as many as a device's free memory takes."""
    blending: BlendingOptions = BlendingOptions()
    tta: TtaOptions = TtaOptions()
    peak_detection: PeakOptions = PeakOptions()
    components: Literal["split", "whole"] = "split"
    """Several peaks in one component of the mask split it between them, or each gets the whole, as in PIVOT."""
    nms: NmsOptions = NmsOptions()
    size_filter: SizeOptions = SizeOptions()
    confidence_filter: ConfidenceOptions = ConfidenceOptions()
