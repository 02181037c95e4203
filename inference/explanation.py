"""Where a network looked: Grad-CAM of its last feature maps, in closed form.

A network that ends in a global average and a linear layer has constant gradients at its last feature
maps: the weights of the linear layer over the number of cells. The map of a label is then a weighted sum
of feature maps that the forward pass has already made; explaining costs no pass through the network.

References
----------
Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based Localization",
ICCV 2017; section 3.1 and appendix A, which show it to equal class activation maps for such networks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

SMALLEST = 1e-7
"""Added to the maximum before dividing by it, as pytorch-grad-cam does."""


class PooledClassifier(Protocol):
    """A network that ends in feature maps, their global average and a linear layer."""

    @property
    def output_weights(self) -> Tensor:
        """The linear layer's weights, shape (outputs, features)."""


Target = tuple[int, int]
"""One map to make: which image of the batch, and which output of the network."""


def explain(
    network: PooledClassifier, feature_maps: Tensor, targets: Sequence[Target]
) -> list[NDArray[np.float32]]:
    """One Grad-CAM map per target, float32 in [0, 1] with the rows and columns of the feature maps.

    ``feature_maps`` has shape (batch, features, rows, columns), on the device that inferred; the maps are
    made there too.
    """
    if not targets:
        return []
    images, outputs = (list(index) for index in zip(*targets, strict=True))
    with torch.no_grad():
        weights = network.output_weights.float()[outputs]
        maps = torch.einsum("nf,nfrc->nrc", weights, feature_maps.float()[images]).relu()
        cells = maps.shape[1] * maps.shape[2]
        maps = maps / cells
        maps = maps - maps.amin(dim=(1, 2), keepdim=True)
        maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + SMALLEST)
    return list(np.nan_to_num(maps.cpu().numpy()).astype(np.float32))
