"""Importing torchxrayvision's published weight sets, and DenseNets and ResNets in its layouts."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from inference.errors import ModelAbsent, ModelInvalid
from inference.importing.checkpoint import checked_names
from inference.store.architectures import DenseNetArchitecture, TorchvisionArchitecture
from inference.store.card_parts import CardLabel, Preprocessing
from inference.store.draft import Draft
from inference.store.pathologies import chest_label

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = Literal["torchxrayvision", "imagenet", "unit"]
"""How pictures become a network's input: a style of ``card_parts.Preprocessing``."""

TORCHXRAYVISION_INPUT = 224

TORCHXRAYVISION_RESNET_INPUT = 512

IMAGENET_INPUT = 224

BASELINES = {
    "jfhealthcare": "it pools by attention maps of its own, on 512 x 512 colour pictures",
    "chexpert": "it is an ensemble of thirty DenseNets, of which torchxrayvision takes the mean",
    "xinario": "it tells frontal from lateral views, which is no finding",
    "emory_hiti": "it tells race, which is no finding",
    "riken": "it tells age, which is no finding",
    "mira": "it tells sex, which is no finding",
    "chestx_det": "it segments pictures, for which there is no engine",
    "chestx_anatomy": "it segments pictures, for which there is no engine",
    "ieee8023": "it is an autoencoder, which finds nothing",
}
"""torchxrayvision's baseline models, and why there is no engine for each."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One of torchxrayvision's published weight sets.

    ``operating_points`` has None for outputs that were not trained, and is None if the set has no such points.
    """

    name: str
    address: str
    labels: tuple[str, ...]
    operating_points: tuple[float | None, ...] | None
    input_size: int


def published(name: str) -> Published:
    """The weight set that torchxrayvision publishes under a name.

    Raises:
        ModelAbsent: there is none that has an engine.
    """
    from torchxrayvision.models import model_urls

    entry = model_urls.get(name)
    if entry is None and name in BASELINES:
        raise ModelAbsent(f"{name!r} cannot be run here: {BASELINES[name]}.")
    if entry is None:
        names = sorted(known for known in model_urls if "-" in known)
        raise ModelAbsent(f"{name!r} is no published weight set; there are {', '.join(names)}.")
    points = entry.get("op_threshs")
    return Published(
        name=name,
        address=entry["weights_url"],
        labels=tuple(entry["labels"]),
        operating_points=None if points is None else tuple(None if p != p else float(p) for p in points),
        input_size=int(entry.get("input_resolution", TORCHXRAYVISION_INPUT)),
    )


def published_model(tensors: dict[str, Tensor], facts: Mapping[str, Any], published: Published) -> Draft:
    """A published weight set as a model.

    Raises:
        ModelInvalid: the tensors are not those of a network that torchxrayvision publishes under that name.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    draft = None
    if published.name.startswith("resnet") and _is_resnet(tensors):
        draft = torchxrayvision_resnet(tensors, facts, published=published)
    if not published.name.startswith("resnet") and "features.conv0.weight" in tensors:
        draft = torchxrayvision_model(tensors, facts, published=published)
    if draft is not None and draft.input_channels == 1:
        return draft
    raise ModelInvalid(f"the file is not {published.name}: it holds a network of another kind.")


def _is_resnet(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict belongs to a ResNet with blocks of three convolutions, or to torchxrayvision's wrapper."""
    return any(
        {f"{prefix}{name}" for name in ("conv1.weight", "layer1.0.conv3.weight", "fc.weight")}
        <= tensors.keys()
        for prefix in ("", "model.")
    )


def _with_normalisation(
    draft: Draft, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], normalisation: Normalisation | None
) -> Draft:
    """A draft with the normalisation that the user or the file states.

    A file states torchxrayvision's normalisation if it holds a pickled module with torchxrayvision's attributes, or
    operating points, which only torchxrayvision has.

    Raises:
        ModelInvalid: neither states it, or it needs another number of channels.
    """
    file_says_it = "op_threshs" in tensors or (
        "module" in facts and not {"targets", "pathologies", "op_threshs"}.isdisjoint(facts)
    )
    if normalisation is None and not file_says_it:
        raise ModelInvalid(
            "the file does not say how pictures become the network's input: add --normalisation torchxrayvision "
            "(the centre square, -1024 to 1024), imagenet (three channels, ImageNet's mean and standard deviation) "
            "or unit (0 to 1), as the network was trained."
        )
    style = normalisation or "torchxrayvision"
    if style == "imagenet" and draft.input_channels != 3:
        raise ModelInvalid(
            f"ImageNet's normalisation is for three channels, and the network has {draft.input_channels}."
        )
    size = draft.input_size if style == "torchxrayvision" else IMAGENET_INPUT
    return replace(draft, preprocessing=Preprocessing(style=style), input_size=size)


def _chest_labels(
    outputs: int,
    tensors: Mapping[str, Tensor],
    facts: Mapping[str, Any],
    published: Published | None,
    names: Sequence[str] | None,
) -> tuple[CardLabel, ...]:
    """Labels with operating points, from a published set, or else from the user and the file.

    ``op_threshs`` is among the facts of a pickled module, but among the tensors of a state dict. If only some outputs
    have an operating point, the others were not trained. torchxrayvision gives 0.5 for them; here their labels have
    no name, so they are not reported.

    Raises:
        ModelInvalid: the numbers of labels or operating points are not the number of outputs.
    """
    points: Sequence[float | None] | None
    if published is not None:
        names, points = published.labels, published.operating_points
    else:
        names = names or facts.get("targets") or facts.get("pathologies")
        points = facts.get("op_threshs")
        if points is None and "op_threshs" in tensors:
            values = tensors["op_threshs"].double().tolist()
            points = [None if math.isnan(value) else value for value in values]
    found = checked_names(names, outputs)
    if points is None:
        return tuple(chest_label(name) for name in found)
    if len(points) != outputs:
        raise ModelInvalid(f"the checkpoint has {outputs} outputs and {len(points)} operating points.")
    return tuple(
        chest_label("" if point is None else name, point) for name, point in zip(found, points, strict=True)
    )


def torchxrayvision_resnet(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    published: Published | None = None,
    names: Sequence[str] | None = None,
) -> Draft:
    """A ResNet-50 in torchxrayvision's layout, which wraps torchvision's, or in torchvision's own.

    Raises:
        ModelInvalid: the labels are unknown or do not fit the outputs.
    """
    prefix = "model." if "model.fc.weight" in tensors else ""
    network = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and name != "op_threshs"
    }
    return _chest_draft(
        network,
        TorchvisionArchitecture(network="resnet50"),
        channels=int(network["conv1.weight"].shape[1]),
        size=published.input_size if published else TORCHXRAYVISION_RESNET_INPUT,
        labels=_chest_labels(int(network["fc.weight"].shape[0]), tensors, facts, published, names),
        published=published,
    )


def torchxrayvision_model(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    published: Published | None = None,
    classes: Sequence[str] | None = None,
) -> Draft:
    """A DenseNet in torchxrayvision's layout, which is the same as torchvision's.

    Raises:
        ModelInvalid: the labels are unknown or do not fit the outputs.
    """
    network = {name: t for name, t in tensors.items() if name.startswith(("features.", "classifier."))}
    if "classifier.weight" not in network:
        raise ModelInvalid("the checkpoint is no torchxrayvision DenseNet: it has no classifier.")
    return _chest_draft(
        network,
        densenet_architecture(network),
        channels=int(network["features.conv0.weight"].shape[1]),
        size=published.input_size if published else TORCHXRAYVISION_INPUT,
        labels=_chest_labels(int(network["classifier.weight"].shape[0]), tensors, facts, published, classes),
        published=published,
    )


def _chest_draft(
    network: dict[str, Tensor],
    architecture: TorchvisionArchitecture | DenseNetArchitecture,
    *,
    channels: int,
    size: int,
    labels: tuple[CardLabel, ...],
    published: Published | None,
) -> Draft:
    """A network for chest X-rays; who made it is known of published sets alone."""
    return Draft(
        tensors=network,
        kind="chest_xray",
        version="1",
        manufacturer="mlmed/torchxrayvision" if published else "unknown",
        licence="Apache-2.0" if published else "unknown",
        input_size=size,
        input_channels=channels,
        architecture=architecture,
        labels=labels,
    )


def densenet_architecture(tensors: Mapping[str, Tensor]) -> DenseNetArchitecture:
    """Sizes of a DenseNet, from the shapes of its tensors.

    Raises:
        ModelInvalid: there are no dense blocks.
    """
    layers: dict[int, int] = {}
    for name in tensors:
        match = re.match(r"features\.denseblock(\d+)\.denselayer(\d+)\.conv2\.weight", name)
        if match is not None:
            block, layer = int(match[1]), int(match[2])
            layers[block] = max(layers.get(block, 0), layer)
    if not layers:
        raise ModelInvalid("the checkpoint is no DenseNet: it has no dense blocks.")
    growth = int(tensors["features.denseblock1.denselayer1.conv2.weight"].shape[0])
    return DenseNetArchitecture(
        block_config=tuple(layers[block] for block in sorted(layers)),
        growth_rate=growth,
        init_features=int(tensors["features.conv0.weight"].shape[0]),
        bottleneck=int(tensors["features.denseblock1.denselayer1.conv1.weight"].shape[0]) // growth,
    )


def classifier_model(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    classes: Sequence[str] | None,
    normalisation: Normalisation | None,
) -> Draft | None:
    """A classifier of chest radiographs in one of torchxrayvision's layouts, None if the tensors are none.

    Args:
        tensors: the checkpoint's tensors by name.
        facts: its plain facts.
        classes: names of the outputs, for files that do not name them.
        normalisation: of the network's input, for files that do not state it.

    Raises:
        ModelInvalid: the labels do not fit the outputs, or the normalisation is unknown.
    """
    if "features.conv0.weight" in tensors:
        draft = torchxrayvision_model(tensors, facts, classes=classes)
    elif _is_resnet(tensors):
        draft = torchxrayvision_resnet(tensors, facts, names=classes)
    else:
        return None
    return _with_normalisation(draft, tensors, facts, normalisation)
