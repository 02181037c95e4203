"""Network architectures, by the family that a model card names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from inference.networks.densenet import DenseNet

if TYPE_CHECKING:
    from inference.store import ModelCard

__all__ = ["DenseNet", "build_network"]


def build_network(card: ModelCard) -> DenseNet:
    """The network of a model card, with random weights and one output per label."""
    architecture = card.architecture
    return DenseNet(
        block_config=architecture.block_config,
        growth_rate=architecture.growth_rate,
        init_features=architecture.init_features,
        bottleneck=architecture.bottleneck,
        input_channels=card.input_channels,
        outputs=len(card.labels),
    )
