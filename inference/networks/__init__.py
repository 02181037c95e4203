"""Network architectures, chosen by the family that a model card names."""

from __future__ import annotations

from inference.errors import ModelInvalid
from inference.networks.densenet import DenseNet
from inference.networks.network import Network
from inference.networks.prototypes import PrototypeNetwork
from inference.networks.torchvision_networks import TorchvisionNetwork
from inference.store.architectures import DenseNetArchitecture, PrototypeArchitecture, TorchvisionArchitecture
from inference.store.card import ModelCard

__all__ = ["DenseNet", "Network", "PrototypeNetwork", "TorchvisionNetwork", "build_network"]


def build_network(card: ModelCard) -> Network:
    """The network of a model card, with random weights and one output per label.

    Raises:
        ModelInvalid: the card's architecture is not for single images.
    """
    architecture = card.architecture
    if isinstance(architecture, DenseNetArchitecture):
        return DenseNet(
            block_config=architecture.block_config,
            growth_rate=architecture.growth_rate,
            init_features=architecture.init_features,
            bottleneck=architecture.bottleneck,
            input_channels=card.input_channels,
            outputs=len(card.labels),
        )
    if isinstance(architecture, TorchvisionArchitecture):
        return TorchvisionNetwork(
            architecture.network,
            input_channels=card.input_channels,
            outputs=len(card.labels),
            input_size=card.input_size,
        )
    if not isinstance(architecture, PrototypeArchitecture):
        raise ModelInvalid(f"model {card.name!r} has no network for single images ({architecture.family}).")
    return PrototypeNetwork(
        architecture.backbone,
        concepts=len(architecture.concepts),
        prototypes_per_concept=architecture.prototypes_per_concept,
        outputs=len(card.labels),
    )
