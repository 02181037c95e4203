"""Concept prototype networks: a decision as a weighted sum of similarities to prototypes of named concepts.

Concept maps and a projector work on the features. Prototypes lie on the unit sphere; a 1 x 1 convolution gives
their cosine similarity to each region ("Stage 2: Prototype Learning - Detailed Explanation").

Shapes: features (B, C, h, w); K concepts with M prototypes each; D = 128 dimensions of the projection.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.networks.network import Network
from inference.networks.vit import VisionTransformer

PROJECTED = 128
"""Dimensions of the projection."""
FEATURES = {"resnet18": 512, "resnet50": 2048, "vit_b_16": 768}


@dataclass(frozen=True, kw_only=True)
class PrototypeOutput:
    """All results of one forward pass, with the names and shapes of the method's description."""

    logits: Tensor
    """(B, classes)"""
    similarity_scores: Tensor
    """(B, K * M) in [-1, 1]; prototype i belongs to concept i // M"""
    similarity_maps: Tensor
    """(B, K * M, h, w) cosines in [-1, 1], or in [0, 1] with a region of interest"""
    cams: Tensor
    """(B, K, h, w) concept activation maps, before the sigmoid"""
    features: Tensor
    """(B, C, h, w)"""
    projected_features: Tensor
    """(B, D, h, w), normalised to length 1 over D"""


class PrototypeNetwork(Network):
    """Backbone, concept head, projector, prototypes and task head."""

    def __init__(self, backbone: str, *, concepts: int, prototypes_per_concept: int, outputs: int) -> None:
        super().__init__()
        channels = FEATURES[backbone]
        self.backbone = _backbone(backbone)
        self.concept_head = nn.Conv2d(channels, concepts, 1)
        self.projector = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, PROJECTED, 1)
        )
        self.prototypes = nn.Parameter(torch.randn(concepts * prototypes_per_concept, PROJECTED, 1, 1))
        self.task_head = nn.Linear(concepts * prototypes_per_concept, outputs)

    def feature_maps(self, images: Tensor) -> Tensor:
        """The backbone's features, shape (B, C, h, w)."""
        return self.backbone(images)

    def classify(self, features: Tensor) -> Tensor:
        """Logits of shape (B, classes)."""
        return self.explain(features, None).logits

    def explain(self, features: Tensor, importance: Tensor | None) -> PrototypeOutput:
        """The logits and all intermediate results.

        Args:
            features: shape (B, C, h, w).
            importance: region of interest, in [0, 1], shape (B, 1, rows, columns), or None. Similarities are
                multiplied by it, after resampling by nearest neighbour, and negative ones become 0.
        """
        projected = functional.normalize(self.projector(features), dim=1)
        maps = functional.conv2d(projected, functional.normalize(self.prototypes, dim=1))
        if importance is not None:
            # All is 0 outside the region, so negative similarities inside must not rank below that.
            maps = (maps * functional.interpolate(importance, size=maps.shape[2:], mode="nearest")).clamp(
                min=0
            )
        scores = maps.amax(dim=(2, 3))
        cams = self.concept_maps(features)
        return PrototypeOutput(
            logits=self.task_head(scores),
            similarity_scores=scores,
            similarity_maps=maps,
            cams=cams,
            features=features,
            projected_features=projected,
        )

    def concept_maps(self, features: Tensor) -> Tensor:
        """Concept activation maps before the sigmoid, shape (B, K, h, w)."""
        maps: Tensor = self.concept_head(features)
        return maps


def _backbone(name: str) -> nn.Module:
    if name == "vit_b_16":
        return _VitBackbone()
    import torchvision  # takes a second

    network = getattr(torchvision.models, name)(weights=None)
    return nn.Sequential(*list(network.children())[:-2])


class _VitBackbone(nn.Module):
    """A ViT in Hugging Face's layout under the name ``vit``; gives its patches as maps (B, 768, h, w)."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer()

    def forward(self, images: Tensor) -> Tensor:
        patches = self.vit(images)[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).reshape(images.shape[0], -1, side, side)
