"""Networks of stored models, loaded with their weights."""

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
LONGEST_REASON = 160
"""Characters of a message of PyTorch that an error quotes."""


def load_network(stored: StoredModel) -> Network:
    """The network for single images that a card names, or the slice network of the brain metastasis system.

    Raises:
        ModelInvalid: the card's architecture is another one, or the weights do not fit.
    """
    if isinstance(stored.card.architecture, MetastasisArchitecture):
        return with_weights(MetastasisNetwork(), stored)
    network = build_network(stored.card)
    load_weights(stored, network.load_weights)
    return network


def load_pivot(stored: StoredModel) -> PivotNetwork:
    """The multi-task 3D U-Net of PIVOT.

    Raises:
        ModelInvalid: the card is of another architecture, or the weights do not fit.
    """
    architecture = stored.card.architecture
    if not isinstance(architecture, PivotArchitecture):
        raise ModelInvalid(f"model {stored.card.name!r} is not a PIVOT network.")
    network = PivotNetwork(
        init_features=architecture.init_features, depth=architecture.depth, heads=architecture.heads
    )
    return with_weights(network, stored)


def load_hybrid(stored: StoredModel) -> HybridNetwork:
    """An image network with three channels and its aggregator, from tensors ``backbone.*`` and ``aggregator.*``.

    Raises:
        ModelInvalid: the card is of another architecture, or the weights do not fit.
    """
    card = stored.card
    architecture = card.architecture
    if not isinstance(architecture, HybridArchitecture):
        raise ModelInvalid(f"model {card.name!r} is not a hybrid network.")
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
    return with_weights(network, stored)


def feature_count(backbone: Network) -> int:
    """The number of a backbone's pooled features, which are the inputs of its last linear layer."""
    linear = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    return int(linear[-1].in_features)


def with_weights(network: N, stored: StoredModel) -> N:
    """The same network, after loading the weights of a stored model into it.

    Raises:
        ModelInvalid: the weights do not fit.
    """
    load_weights(stored, lambda tensors: network.load_state_dict(dict(tensors), strict=True))
    return network


def _read_tensors(stored: StoredModel) -> dict[str, Tensor]:
    try:
        return load_file(stored.weights)
    except SafetensorError as error:
        raise ModelInvalid(
            f"the weights of model {stored.card.name!r} do not fit its card: they are no safetensors file."
        ) from error


def _first_mismatch(error: RuntimeError) -> str:
    """The first mismatch of the many that PyTorch lists, one a line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[1] if len(lines) > 1 else lines[0])[:LONGEST_REASON]


def load_weights(stored: StoredModel, load: Callable[[Mapping[str, Tensor]], object]) -> None:
    """Read a stored model's tensors and pass them to ``load``, which puts them into a network.

    Raises:
        ModelInvalid: the file cannot be read as safetensors, or the weights do not fit.
    """
    tensors = _read_tensors(stored)
    try:
        load(tensors)
    except RuntimeError as error:
        raise ModelInvalid(
            f"the weights of model {stored.card.name!r} do not fit its card ({_first_mismatch(error)})."
        ) from error
