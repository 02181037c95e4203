"""The multi-task 3D U-Net of the PIVOT nodule system: mask, centre heat map, size and malignancy.

Parameter names are those of the original, so that its checkpoints load.

References: Cicek et al., "3D U-Net: Learning Dense Volumetric Segmentation from Sparse Annotation", MICCAI 2016.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True, kw_only=True)
class PivotOutput:
    """The network's output for patches of shape (batch, 1, slices, rows, columns)."""

    mask: Tensor
    """Logits of belonging to a nodule, of the input's shape."""
    centre: Tensor
    """Logits of being the centre of a nodule, of the input's shape."""
    size: Tensor | None
    """Diameters along the axes in mm, mean over the patch, (batch, 3); None without that head."""
    triage: Tensor | None
    """Logit of malignancy, mean over the patch, (batch, 1); None without that head."""


class DoubleConvolution(nn.Module):
    """Twice: 3 x 3 x 3 convolution, batch normalisation, ReLU."""

    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.double_conv = nn.Sequential(
            nn.Conv3d(channels, features, 3, padding=1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(inplace=True),
            nn.Conv3d(features, features, 3, padding=1, bias=False),
            nn.BatchNorm3d(features),
            nn.ReLU(inplace=True),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Maps of shape (batch, features, slices, rows, columns)."""
        result: Tensor = self.double_conv(maps)
        return result


class _Level(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.conv = DoubleConvolution(channels, features)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.conv(maps)
        return result


class _Decoder(nn.Module):
    def __init__(self, channels: int, features: int) -> None:
        super().__init__()
        self.upsample = nn.ConvTranspose3d(channels, features, 2, stride=2)
        self.conv = DoubleConvolution(2 * features, features)

    def forward(self, maps: Tensor, skip: Tensor) -> Tensor:
        upsampled = self.upsample(maps)
        if upsampled.shape[2:] != skip.shape[2:]:
            upsampled = functional.interpolate(
                upsampled, size=skip.shape[2:], mode="trilinear", align_corners=False
            )
        result: Tensor = self.conv(torch.cat([skip, upsampled], dim=1))
        return result


class _Backbone(nn.Module):
    def __init__(self, init_features: int, depth: int) -> None:
        super().__init__()
        widths = [init_features << level for level in range(depth + 1)]
        self.encoders = nn.ModuleList(
            _Level(channels, features)
            for channels, features in zip([1, *widths[:-2]], widths[:-1], strict=True)
        )
        self.bottleneck = _Level(widths[-2], widths[-1])
        self.decoders = nn.ModuleList(
            _Decoder(widths[level + 1], widths[level]) for level in reversed(range(depth))
        )
        self.output_conv = nn.Conv3d(init_features, init_features, 1)

    def forward(self, maps: Tensor) -> Tensor:
        skips: list[Tensor] = []
        for encoder in self.encoders:
            maps = encoder(maps)
            skips.append(maps)
            maps = functional.max_pool3d(maps, 2)
        maps = self.bottleneck(maps)
        for decoder in self.decoders:
            maps = decoder(maps, skips.pop())
        result: Tensor = self.output_conv(maps)
        return result


class _Head(nn.Module):
    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(features, outputs, 1)

    def forward(self, maps: Tensor) -> Tensor:
        result: Tensor = self.conv(maps)
        return result


class PivotNetwork(nn.Module):
    """A 3D U-Net with heads for mask and centre, and optional ones for size and triage.

    Args:
        init_features: features of the first level; each further level doubles them.
        depth: levels above the bottleneck.
        heads: which of ``size`` and ``triage`` the network has.
    """

    def __init__(
        self, *, init_features: int = 32, depth: int = 4, heads: Collection[str] = ("size", "triage")
    ) -> None:
        super().__init__()
        self.backbone = _Backbone(init_features, depth)
        self.segmentation_head = _Head(init_features, 1)
        self.center_head = _Head(init_features, 1)
        self.size_head = _Head(init_features, 3) if "size" in heads else None
        self.triage_head = _Head(init_features, 1) if "triage" in heads else None

    def forward(self, patches: Tensor) -> PivotOutput:
        """The output of all heads for patches of shape (batch, 1, slices, rows, columns)."""
        maps = self.backbone(patches)
        # The mean of a 1 x 1 x 1 convolution equals the convolution of the mean, which needs no full maps.
        pooled = maps.mean(dim=(2, 3, 4), keepdim=True)
        return PivotOutput(
            mask=self.segmentation_head(maps),
            centre=self.center_head(maps),
            size=None if self.size_head is None else self.size_head(pooled).flatten(1),
            triage=None if self.triage_head is None else self.triage_head(pooled).flatten(1),
        )
