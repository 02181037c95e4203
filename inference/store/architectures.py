"""The architectures that a model card can name, and the sizes from which each network is built."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from inference.store.card_parts import CardModel


class DenseNetArchitecture(CardModel):
    """A DenseNet; the defaults are those of DenseNet-121."""

    family: Literal["densenet"] = "densenet"
    block_config: Annotated[tuple[int, ...], Field(strict=False)] = (6, 12, 24, 16)
    growth_rate: int = 32
    init_features: int = 64
    bottleneck: int = 4


class TorchvisionArchitecture(CardModel):
    """One of torchvision's classification networks, with its own parameter names."""

    family: Literal["torchvision"] = "torchvision"
    network: Literal[
        "densenet121",
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "efficientnet_b4",
        "convnext_base",
        "vit_b_16",
    ]


class PrototypeArchitecture(CardModel):
    """A concept prototype network: a backbone, concept maps, and prototypes to which it compares image regions."""

    family: Literal["concept_prototype"] = "concept_prototype"
    backbone: Literal["resnet18", "resnet50", "vit_b_16"]
    concepts: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Names of the concepts, in the order of the concept maps."""
    prototypes_per_concept: int = Field(gt=0)


class PivotArchitecture(CardModel):
    """The multi-task 3D U-Net of the PIVOT nodule system."""

    family: Literal["pivot"] = "pivot"
    init_features: int = Field(default=32, gt=0)
    depth: int = Field(default=4, gt=0)
    heads: Annotated[tuple[Literal["size", "triage"], ...], Field(strict=False)] = ("size", "triage")
    """Outputs besides centres and masks. Without ``triage``, malignancy is not reported."""


class MetastasisArchitecture(CardModel):
    """A ResNet-50 with one input channel and the head 2048-512-1, which gives one logit for a slice."""

    family: Literal["metastasis"] = "metastasis"


class HybridArchitecture(CardModel):
    """A network for three neighbouring slices, and an aggregator of its predictions over the volume."""

    family: Literal["hybrid"] = "hybrid"
    backbone: DenseNetArchitecture | TorchvisionArchitecture = Field(discriminator="family")
    aggregator: Literal["max", "mean", "noisy_or", "attention", "lstm", "transformer"]
    mean_of: Literal["predictions", "logits"] = "predictions"
    """What the aggregators ``mean`` and ``attention`` average over the slices."""


class UnetResnetArchitecture(CardModel):
    """MONAI's 3D U-Net for a mask and MONAI's 3D ResNet for the labels, on the same windows."""

    family: Literal["unet_resnet"] = "unet_resnet"
    unet_channels: Annotated[tuple[int, ...], Field(strict=False)] = (16, 32, 64, 128, 256)
    resnet_layers: Annotated[tuple[int, ...], Field(strict=False)] = (2, 2, 2, 2)
    resnet_widths: Annotated[tuple[int, ...], Field(strict=False)] = (64, 128, 256, 512)


class NnunetArchitecture(CardModel):
    """A plain U-Net that nnU-Net's plans describe, run as MONAI's DynUNet."""

    family: Literal["nnunet"] = "nnunet"
    features: Annotated[tuple[int, ...], Field(strict=False)]
    kernel_sizes: Annotated[tuple[tuple[int, int, int], ...], Field(strict=False)]
    strides: Annotated[tuple[tuple[int, int, int], ...], Field(strict=False)]
    input_channels: int = Field(default=1, gt=0)
    patch_size: Annotated[tuple[int, int, int], Field(strict=False)]
    normalisation: Literal[
        "CTNormalization",
        "ZScoreNormalization",
        "NoNormalization",
        "RescaleTo01Normalization",
        "RGBTo01Normalization",
    ]
    intensity: dict[str, float] = Field(default_factory=dict)
    """Statistics of the foreground of the training images: mean, std, percentile_00_5, percentile_99_5."""
    masked: bool = False
    """Whether only voxels that are not 0 are z-scored."""
    mirror_axes: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Axes of the network that test-time augmentation may mirror."""
    canonical: bool = False
    """Whether images were reoriented to RAS for training."""
    transpose: Annotated[tuple[int, int, int], Field(strict=False)] = (0, 1, 2)
    """Order of the image's axes (slice, row, column) in the network."""
    folds: int = Field(default=1, gt=0)
    """Number of networks whose logits are averaged. With several, names of tensors start with ``folds.N.``."""


class BundleArchitecture(CardModel):
    """A MONAI bundle, whose configuration in the model's folder describes everything else."""

    family: Literal["bundle"] = "bundle"
    output: Literal["segmentation", "classification"]
    code_allowed: bool = False
    """Whether the bundle may run code: expressions, and classes from outside of MONAI and torch."""


Architecture = Annotated[
    DenseNetArchitecture
    | TorchvisionArchitecture
    | PrototypeArchitecture
    | PivotArchitecture
    | MetastasisArchitecture
    | HybridArchitecture
    | UnetResnetArchitecture
    | NnunetArchitecture
    | BundleArchitecture,
    Field(discriminator="family"),
]
