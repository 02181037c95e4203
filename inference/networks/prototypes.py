"""Concept prototype networks: a decision as a sum of similarities to prototypes of named concepts.

Shapes: f features (B, C, h, w); K concepts, M prototypes each, D = 128 dimensions of the projection.

References
----------
Concept-based similarity reasoning: concept maps, a projector and prototypes on the unit sphere whose
cosine similarity to each region is found by a 1 x 1 convolution.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.networks.network import Network
from inference.networks.vit import VisionTransformer

PROJECTED = 128
FEATURES = {"resnet18": 512, "resnet50": 2048, "vit_b_16": 768}


@dataclass(frozen=True, kw_only=True)
class PrototypeOutput:
    """Everything that one forward pass makes, under the names and shapes of the method's description."""

    logits: Tensor
    """(B, classes)"""
    similarity_scores: Tensor
    """(B, K * M) in [-1, 1], prototype i belongs to concept i // M"""
    similarity_maps: Tensor
    """(B, K * M, h, w) cosines in [-1, 1]; with a region of interest in [0, 1]"""
    cams: Tensor
    """(B, K, h, w) concept activation maps, before the sigmoid"""
    features: Tensor
    """(B, C, h, w)"""
    projected_features: Tensor
    """(B, D, h, w), of length 1 over D"""


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
        return self.backbone(images)

    def classify(self, features: Tensor) -> Tensor:
        return self.explain(features, None).logits

    def explain(self, features: Tensor, importance: Tensor | None) -> PrototypeOutput:
        """The decision and all it was made from.

        ``importance`` (B, 1, rows, columns) in [0, 1] is where a person asked to look; it is brought to the
        grid of the features by nearest neighbour, and similarities below 0 count as none then.
        """
        projected = functional.normalize(self.projector(features), dim=1)
        maps = functional.conv2d(projected, functional.normalize(self.prototypes, dim=1))
        if importance is not None:
            # A similarity below 0 inside the region would otherwise lose to the 0 outside of it.
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
        maps: Tensor = self.concept_head(features)
        return maps


def _backbone(name: str) -> nn.Module:
    if name == "vit_b_16":
        return _VitBackbone()
    import torchvision  # takes a second

    network = getattr(torchvision.models, name)(weights=None)
    return nn.Sequential(*list(network.children())[:-2])


class _VitBackbone(nn.Module):
    """A Hugging Face ViT under the name ``vit``; its patches as maps."""

    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer()

    def forward(self, images: Tensor) -> Tensor:
        patches = self.vit(images)[:, 1:]
        side = round(patches.shape[1] ** 0.5)
        return patches.transpose(1, 2).reshape(images.shape[0], -1, side, side)
