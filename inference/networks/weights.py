"""Networks of stored models with their weights, for the engines of volumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from inference.errors import ModelInvalid
from inference.networks import Network, build_network
from inference.networks.aggregation import AttentionPool, LstmAggregator, TransformerAggregator
from inference.networks.hybrid import Aggregator, HybridNetwork
from inference.networks.metastasis import MetastasisNetwork
from inference.networks.pivot import PivotNetwork
from inference.store import StoredModel
from inference.store.architectures import HybridArchitecture, MetastasisArchitecture, PivotArchitecture

N = TypeVar("N", bound=nn.Module)
LONGEST = 160
"""Characters of a message of PyTorch that are passed on."""


def load_network(stored: StoredModel) -> Network:
    """An image network, or the slice network of the brain metastasis system.

    Raises:
        ModelInvalid: the weights do not fit.
    """
    if isinstance(stored.card.architecture, MetastasisArchitecture):
        return filled(MetastasisNetwork(), stored)
    network = build_network(stored.card)
    load_weights(stored, network.load_weights)
    return network


def load_pivot(stored: StoredModel) -> PivotNetwork:
    """The multi-task 3D U-Net.

    Raises:
        ModelInvalid: the card is of another architecture, or the weights do not fit.
    """
    architecture = stored.card.architecture
    if not isinstance(architecture, PivotArchitecture):
        raise ModelInvalid(f"model {stored.card.name!r} is no PIVOT network.")
    network = PivotNetwork(
        init_features=architecture.init_features, depth=architecture.depth, heads=architecture.heads
    )
    return filled(network, stored)


def load_hybrid(stored: StoredModel) -> HybridNetwork:
    """An image network for three channels and its aggregator; their tensors are ``backbone.*``, ``aggregator.*``.

    Raises:
        ModelInvalid: the card is of another architecture, or the weights do not fit.
    """
    card = stored.card
    architecture = card.architecture
    if not isinstance(architecture, HybridArchitecture):
        raise ModelInvalid(f"model {card.name!r} is no hybrid network.")
    backbone = build_network(
        card.model_copy(update={"architecture": architecture.backbone, "input_channels": 3})
    )
    features = feature_count(backbone)
    classes = len(card.labels)
    aggregator: AttentionPool | LstmAggregator | TransformerAggregator | Aggregator = architecture.aggregator
    if aggregator == "attention":
        aggregator = AttentionPool(features)
    elif aggregator == "lstm":
        aggregator = LstmAggregator(features, classes)
    elif aggregator == "transformer":
        aggregator = TransformerAggregator(features, classes)
    mean_of = "logits" if architecture.mean_of == "logits" else card.activation
    network = HybridNetwork(backbone, aggregator, mean_of)
    return filled(network, stored)


def feature_count(backbone: Network) -> int:
    """Pooled features of a backbone: inputs of its last linear layer."""
    linear = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    return int(linear[-1].in_features)


def filled(network: N, stored: StoredModel) -> N:
    """A network with the weights of a stored model.

    Raises:
        ModelInvalid: they do not fit.
    """
    load_weights(stored, lambda tensors: network.load_state_dict(dict(tensors), strict=True))
    return network


def _tensors(stored: StoredModel) -> dict[str, Tensor]:
    try:
        return load_file(stored.weights)
    except SafetensorError as error:
        raise ModelInvalid(
            f"the weights of model {stored.card.name!r} do not fit its card: they are no safetensors file."
        ) from error


def _first(error: RuntimeError) -> str:
    """The first of what does not fit, of the many lines that PyTorch says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0])[:LONGEST]


def load_weights(stored: StoredModel, load: Callable[[Mapping[str, Tensor]], object]) -> None:
    """Hand a stored model's tensors to what puts them into a network.

    Raises:
        ModelInvalid: they do not fit.
    """
    tensors = _tensors(stored)
    try:
        load(tensors)
    except RuntimeError as error:
        raise ModelInvalid(
            f"the weights of model {stored.card.name!r} do not fit its card ({_first(error)})."
        ) from error
