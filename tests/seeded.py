"""torchxrayvision's own network with seeded weights, for tests and benchmarks."""

from __future__ import annotations

import torch
import torchxrayvision as xrv


def seeded_densenet(seed: int) -> xrv.models.DenseNet:
    """Random weights, with batch norms that have settled on images of the usual range."""
    torch.manual_seed(seed)
    network = xrv.models.DenseNet(weights=None, num_classes=18, apply_sigmoid=True)
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network.features(torch.randn(4, 1, 224, 224) * 400)
    return network.eval()
