"""Checkpoints of other systems as models of the store: their tensors, labels and operating points."""

from __future__ import annotations

import hashlib
import json
import math
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.errors import InferenceError, ModelAbsent, ModelInvalid
from inference.importing import unpickler
from inference.own_process import failure_of
from inference.store.card import (
    Architecture,
    CardLabel,
    DenseNetArchitecture,
    ModelCard,
    Preprocessing,
    PrototypeArchitecture,
    TorchvisionArchitecture,
)
from inference.store.names import is_absence
from inference.store.pathologies import chest_label

if TYPE_CHECKING:
    from torch import Tensor

Normalisation = Literal["torchxrayvision", "imagenet", "unit"]
"""How pictures become a network's input: the styles of a card's preprocessing."""

UNPICKLE_SECONDS = 900
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
"""torchxrayvision's baseline models, and why each has no engine."""


@dataclass(frozen=True, kw_only=True)
class Published:
    """One of torchxrayvision's published weight sets; of labels without an operating point it says nothing."""

    name: str
    address: str
    labels: tuple[str, ...]
    operating_points: tuple[float | None, ...] | None
    input_size: int


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A model that is not in the store yet: its tensors and everything of its card but name and digest."""

    tensors: dict[str, Tensor]
    kind: str
    version: str
    manufacturer: str
    licence: str
    input_size: int
    input_channels: int
    architecture: Architecture
    labels: tuple[CardLabel, ...]
    training: str = ""
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    negative_class: str = ""
    disclaimer: str = ""
    more: Mapping[str, Any] = field(default_factory=dict)
    """Further fields of the card, for models of volumes."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Text files that belong to the model, by name."""

    def card(self, *, name: str, origin: str, sha256: str) -> ModelCard:
        """The card of the model under a name."""
        return ModelCard(
            name=name,
            version=self.version,
            kind=self.kind,
            manufacturer=self.manufacturer,
            licence=self.licence,
            origin=origin,
            sha256=sha256,
            input_size=self.input_size,
            input_channels=self.input_channels,
            architecture=self.architecture,
            labels=self.labels,
            training=self.training,
            preprocessing=self.preprocessing,
            activation=self.activation,
            negative_class=self.negative_class,
            disclaimer=self.disclaimer,
            files={
                file: hashlib.sha256(text.encode()).hexdigest() for file, text in sorted(self.files.items())
            },
            **self.more,
        )


def published(name: str) -> Published:
    """What torchxrayvision publishes under a name.

    Raises:
        ModelAbsent: nothing.
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
        ModelInvalid: what came is none of the layouts that torchxrayvision publishes.
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
    """Whether a state dict is that of a ResNet with blocks of three convolutions, or of torchxrayvision's around it."""
    return any(
        {f"{prefix}{name}" for name in ("conv1.weight", "layer1.0.conv3.weight", "fc.weight")}
        <= tensors.keys()
        for prefix in ("", "model.")
    )


def unpickle(file: Path, scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain facts of a pickled checkpoint, read in a process of its own.

    Raises:
        InferenceError: the file cannot be read in time.
        ModelInvalid: the file holds no model.
    """
    from safetensors.torch import load_file

    arguments = str(file.resolve()), str(scratch)
    try:
        failure = failure_of("inference.importing.unpickler", *arguments, seconds=UNPICKLE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InferenceError(f"{file} was not read within {UNPICKLE_SECONDS} seconds.") from error
    if failure is not None:
        raise ModelInvalid(f"{file} cannot be read as a checkpoint: {failure}")
    tensors = load_file(scratch / unpickler.TENSORS)
    facts = json.loads((scratch / unpickler.FACTS).read_text())
    return tensors, facts


def draft_of(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    kind: str | None,
    names: Mapping[str, Sequence[str]],
    normalisation: Normalisation | None = None,
) -> Draft:
    """The model that a checkpoint holds, recognised by its tensors.

    ``names`` has the names of outputs under ``classes`` and of concepts under ``concepts``, and ``normalisation``
    is that of the network's input, where the file does not have them.

    Raises:
        ModelInvalid: no engine of this version knows the layout, or not as ``kind``; nobody says the normalisation,
            or it is known and ``normalisation`` says it as well.
    """
    tensors = {name.removeprefix("module."): tensor for name, tensor in tensors.items()}
    classes = names.get("classes")
    if kind in (None, "chest_xray"):
        if "features.conv0.weight" in tensors:
            return _normalised(
                torchxrayvision_model(tensors, facts, classes=classes), tensors, facts, normalisation
            )
        if _is_resnet(tensors):
            return _normalised(
                torchxrayvision_resnet(tensors, facts, names=classes), tensors, facts, normalisation
            )
    draft = _draft_of_known_input(tensors, facts, kind=kind, names=names)
    if normalisation is not None:
        raise ModelInvalid(
            f"how the input of {draft.kind} networks of this layout is made is known: leave --normalisation out."
        )
    return draft


def _draft_of_known_input(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    kind: str | None,
    names: Mapping[str, Sequence[str]],
) -> Draft:
    """The model of a layout that only one system has."""
    from inference.importing import volume_importers

    if kind in (None, "concept_prototype") and "prototypes" in tensors:
        return concept_prototype_model(tensors, names)
    if kind in (None, "pneumonia") and facts.get("architecture") == "efficientnet_b0":
        return pneumonia_model(tensors, facts, names.get("classes"))
    if kind in (None, "lung_nodule") and volume_importers.is_pivot(tensors):
        return volume_importers.pivot_model(tensors)
    if kind in (None, "brain_metastasis") and volume_importers.is_metastasis(tensors):
        return volume_importers.metastasis_model(tensors, facts)
    raise ModelInvalid(
        "the checkpoint's layout is not known"
        + (f" for kind {kind!r}." if kind else ": say --kind, or import safetensors with a card.")
    )


def _normalised(
    draft: Draft, tensors: Mapping[str, Tensor], facts: Mapping[str, Any], normalisation: Normalisation | None
) -> Draft:
    """A draft with the normalisation that the user or the file says.

    A file says torchxrayvision's where it is a module of it, with the labels that its classes have, or holds
    operating points, which only they have.

    Raises:
        ModelInvalid: neither says it, or it needs another number of channels.
    """
    said = "op_threshs" in tensors or (
        "module" in facts and not {"targets", "pathologies", "op_threshs"}.isdisjoint(facts)
    )
    if normalisation is None and not said:
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
    """Labels with operating points: of a published set, or as the user and the file say.

    ``op_threshs`` are among the facts of a module and among the tensors of a state dict. Where torchxrayvision has
    no operating point among others, the output was not trained: it says 0.5 of every picture there, here the label
    has no name, so that nothing is said.

    Raises:
        ModelInvalid: there are not as many as outputs.
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
    found = _checked_names(names, outputs)
    if points is None:
        return tuple(chest_label(name) for name in found)
    if len(points) != outputs:
        raise ModelInvalid(f"the checkpoint has {outputs} outputs and {len(points)} operating points.")
    return tuple(
        chest_label("" if point is None else name, point) for name, point in zip(found, points, strict=True)
    )


def pneumonia_model(
    tensors: dict[str, Tensor], facts: Mapping[str, Any], classes: Sequence[str] | None = None
) -> Draft:
    """An EfficientNet-B0 with a softmax over its classes, NORMAL among them.

    Raises:
        ModelInvalid: the classes are unknown or do not fit the outputs.
    """
    if "classifier.1.weight" not in tensors:
        raise ModelInvalid("the checkpoint is no EfficientNet-B0 of torchvision: it has no classifier.")
    outputs = int(tensors["classifier.1.weight"].shape[0])
    found = _checked_names(classes or facts.get("class_names"), outputs)
    labels = tuple(chest_label(name.capitalize() if name.isupper() else name) for name in found)
    return Draft(
        tensors=dict(tensors),
        kind="pneumonia",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=224,
        input_channels=3,
        architecture=TorchvisionArchitecture(network="efficientnet_b0"),
        labels=labels,
        preprocessing=Preprocessing(style="imagenet"),
        activation="softmax",
        negative_class=next((label.name for label in labels if is_absence(label.name)), ""),
        disclaimer="AI-assisted preliminary reading. Clinical correlation required.",
    )


def torchxrayvision_resnet(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    published: Published | None = None,
    names: Sequence[str] | None = None,
) -> Draft:
    """A ResNet50 as torchxrayvision's, which wraps torchvision's, or the network within.

    Raises:
        ModelInvalid: the labels are unknown or do not fit the outputs.
    """
    prefix = "model." if "model.fc.weight" in tensors else ""
    network = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix) and name != "op_threshs"
    }
    return Draft(
        tensors=network,
        kind="chest_xray",
        version="1",
        manufacturer="mlmed/torchxrayvision" if published else "unknown",
        licence="Apache-2.0" if published else "unknown",
        input_size=published.input_size if published else TORCHXRAYVISION_RESNET_INPUT,
        input_channels=int(network["conv1.weight"].shape[1]),
        architecture=TorchvisionArchitecture(network="resnet50"),
        labels=_chest_labels(int(network["fc.weight"].shape[0]), tensors, facts, published, names),
    )


def concept_prototype_model(tensors: dict[str, Tensor], names: Mapping[str, Sequence[str]]) -> Draft:
    """A concept prototype network; numbers of concepts and prototypes follow from the shapes.

    Raises:
        ModelInvalid: the names do not fit, or the backbone is none that overread knows.
    """
    missing = {"concept_head.weight", "task_head.weight"} - tensors.keys()
    if missing:
        raise ModelInvalid(f"the checkpoint is no concept prototype network: it has no {min(missing)}.")
    concepts = int(tensors["concept_head.weight"].shape[0])
    prototypes = int(tensors["prototypes"].shape[0])
    classes = int(tensors["task_head.weight"].shape[0])
    if prototypes % concepts:
        raise ModelInvalid(
            f"the checkpoint has {prototypes} prototypes, no multiple of its {concepts} concepts."
        )
    features = int(tensors["concept_head.weight"].shape[1])
    if "backbone.0.weight" in tensors:
        backbone: Literal["resnet18", "resnet50", "vit_b_16"] = "resnet18" if features == 512 else "resnet50"
    elif any(name.startswith("backbone.vit.") for name in tensors):
        backbone = "vit_b_16"
    else:
        raise ModelInvalid("the checkpoint's backbone is neither a ResNet nor a Hugging Face ViT.")
    named_concepts = names.get("concepts") or [f"Concept {n + 1}" for n in range(concepts)]
    if len(named_concepts) != concepts:
        raise ModelInvalid(f"the checkpoint has {concepts} concepts and {len(named_concepts)} names.")
    kept = {
        _vit_name(name): tensor
        for name, tensor in tensors.items()
        if not name.startswith("backbone.vit.pooler.")
    }
    return Draft(
        tensors=kept,
        kind="concept_prototype",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=224,
        input_channels=3,
        architecture=PrototypeArchitecture(
            backbone=backbone,
            concepts=tuple(named_concepts),
            prototypes_per_concept=prototypes // concepts,
        ),
        labels=tuple(chest_label(name) for name in _checked_names(names.get("classes"), classes)),
        preprocessing=Preprocessing(style="imagenet"),
    )


_VIT_NAMES = {
    "backbone.vit.layers.": "backbone.vit.encoder.layer.",
    ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.",
    ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.",
    ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}
"""Parts of the names of Hugging Face's ViTModel in transformers 5, and those of transformers 4, which are kept."""


def _vit_name(name: str) -> str:
    for new, old in _VIT_NAMES.items():
        name = name.replace(new, old)
    return name


def _checked_names(names: Sequence[str] | None, outputs: int) -> list[str]:
    found = list(names or ())
    if len(found) != outputs:
        raise ModelInvalid(
            f"the checkpoint has {outputs} outputs and {len(found)} labels: name them all with --labels FILE."
        )
    return found


def torchxrayvision_model(
    tensors: dict[str, Tensor],
    facts: Mapping[str, Any],
    *,
    published: Published | None = None,
    classes: Sequence[str] | None = None,
) -> Draft:
    """A DenseNet in torchxrayvision's layout, which is torchvision's.

    Raises:
        ModelInvalid: the labels are unknown or do not fit the outputs.
    """
    network = {name: t for name, t in tensors.items() if name.startswith(("features.", "classifier."))}
    if "classifier.weight" not in network:
        raise ModelInvalid("the checkpoint is no torchxrayvision DenseNet: it has no classifier.")
    return Draft(
        tensors=network,
        kind="chest_xray",
        version="1",
        manufacturer="mlmed/torchxrayvision" if published else "unknown",
        licence="Apache-2.0" if published else "unknown",
        input_size=published.input_size if published else TORCHXRAYVISION_INPUT,
        input_channels=int(network["features.conv0.weight"].shape[1]),
        architecture=densenet_architecture(network),
        labels=_chest_labels(int(network["classifier.weight"].shape[0]), tensors, facts, published, classes),
    )


def densenet_architecture(tensors: Mapping[str, Tensor]) -> DenseNetArchitecture:
    """Sizes of a DenseNet, read off the shapes of its tensors."""
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
