"""The 2.5D network: an image network for stacks of three slices, and an aggregator of its predictions."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from inference.networks.aggregation import MEANS, POOLS, AttentionPool, LstmAggregator, TransformerAggregator
from inference.networks.network import Network

Aggregator = Literal["max", "mean", "noisy_or", "attention", "lstm", "transformer"]


class HybridNetwork(nn.Module):
    """A backbone for stacks of slices, and an aggregator for the volume.

    Args:
        backbone: an image network with three input channels.
        aggregator: a trained module, or the name of an aggregator without parameters.
        mean_of: what the aggregators mean and attention average, a key of ``MEANS``.
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
        """The feature maps, logits (n, classes) and pooled features (n, features) of a batch of stacks."""
        maps = self.backbone.feature_maps(stacks)
        pooled = maps.mean(dim=(2, 3)) if maps.dim() == 4 else maps.mean(dim=1)
        return maps, self.backbone.classify(maps), pooled

    def aggregate(self, logits: Tensor, features: Tensor) -> Tensor:
        """The logits of the volume, shape (classes,).

        Args:
            logits: of all slices, in order, shape (slices, classes).
            features: of all slices, pooled, shape (slices, features).
        """
        if isinstance(self.aggregator, AttentionPool):
            return MEANS[self.mean_of](logits, self.aggregator(features))
        if self.aggregator is not None:
            decided: Tensor = self.aggregator(features)
            return decided
        if self.pool == "mean":
            return MEANS[self.mean_of](logits, torch.full_like(logits[:, :1], 1 / len(logits)))
        return POOLS[self.pool](logits)
