"""The 2.5D network: an image network for three neighbouring slices, and an aggregator of its predictions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from inference.networks.aggregation import MEANS, POOLS, AttentionPool, LstmAggregator, TransformerAggregator
from inference.networks.network import Network

Aggregator = Literal["max", "mean", "noisy_or", "attention", "lstm", "transformer"]


class HybridNetwork(nn.Module):
    """``aggregator`` is a trained module, or the name of one without parameters.

    ``mean_of`` is for mean and attention: what of the slices is averaged, the logits or the predictions that an
    activation makes of them (``MEANS``).
    """

    def __init__(
        self,
        backbone: Network,
        aggregator: AttentionPool | LstmAggregator | TransformerAggregator | Aggregator,
        mean_of: Literal["logits", "sigmoid", "softmax"],
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.aggregator = aggregator if isinstance(aggregator, nn.Module) else None
        self.pool = aggregator if isinstance(aggregator, str) else ""
        self.mean_of = mean_of

    def describe(self, stacks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Feature maps, logits (n, classes) and pooled features (n, features) of a batch of stacks."""
        maps = self.backbone.feature_maps(stacks)
        pooled = maps.mean(dim=(2, 3)) if maps.dim() == 4 else maps.mean(dim=1)
        return maps, self.backbone.classify(maps), pooled

    def aggregate(self, logits: Tensor, features: Tensor) -> Tensor:
        """Logits of the volume of those of its slices (slices, classes), with their features."""
        if isinstance(self.aggregator, AttentionPool):
            return MEANS[self.mean_of](logits, self.aggregator(features))
        if self.aggregator is not None:
            decided: Tensor = self.aggregator(features)
            return decided
        if self.pool == "mean":
            return MEANS[self.mean_of](logits, torch.full_like(logits[:, :1], 1 / len(logits)))
        return POOLS[self.pool](logits)
