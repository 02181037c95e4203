"""Where a network looked: Grad-CAM of its last feature maps.

Gradients stop at the last feature maps, which the forward pass has already made. Explaining a label costs
a pooling and a linear layer, not another pass through the network, however many labels are explained.

References
----------
Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn


class PooledClassifier(Protocol):
    """A network that ends in feature maps and a classifier of them."""

    def classify(self, feature_maps: Tensor) -> Tensor:
        """Logits of shape (batch, outputs) for feature maps of shape (batch, features, rows, columns)."""


Target = tuple[int, int]
"""One map to make: which image of the batch, and which output of the network."""


def explain(
    network: PooledClassifier, feature_maps: Tensor, targets: Sequence[Target]
) -> list[NDArray[np.float32]]:
    """One Grad-CAM map per target, float32 in [0, 1] with the rows and columns of the feature maps.

    ``feature_maps`` are those of the whole batch, on the device that inferred; the maps are made there too.
    """
    if not targets:
        return []
    chosen = feature_maps.detach().float()[[image for image, _ in targets]].requires_grad_(True)
    head = _Head(network)
    with torch.enable_grad(), GradCAM(model=head, target_layers=[head.maps]) as grad_cam:
        maps = grad_cam(
            input_tensor=chosen, targets=[ClassifierOutputTarget(output) for _, output in targets]
        )
    return [np.clip(np.nan_to_num(one), 0.0, 1.0).astype(np.float32) for one in maps]


class _Head(nn.Module):
    """The end of a network as a network of its own, with its input as the layer to look at."""

    def __init__(self, network: PooledClassifier) -> None:
        super().__init__()
        self.maps = nn.Identity()
        self.network = network

    def forward(self, feature_maps: Tensor) -> Tensor:
        return self.network.classify(self.maps(feature_maps))
