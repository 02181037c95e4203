"""Importing the concept prototype system: a backbone, prototypes of concepts, and two heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from inference.errors import ModelInvalid
from inference.importing.checkpoint import checked_names
from inference.store.architectures import PrototypeArchitecture
from inference.store.card_parts import Preprocessing
from inference.store.draft import Draft
from inference.store.pathologies import chest_label

if TYPE_CHECKING:
    from torch import Tensor


def is_concept_prototype(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a concept prototype network."""
    return "prototypes" in tensors


def concept_prototype_model(tensors: dict[str, Tensor], names: Mapping[str, Sequence[str]]) -> Draft:
    """A concept prototype network, whose numbers of concepts and prototypes follow from the shapes of its tensors.

    ``names`` has the names of the ``classes`` and, if given, of the ``concepts``.

    Raises:
        ModelInvalid: tensors are missing, the names do not fit, or overread does not know the backbone.
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
        labels=tuple(chest_label(name) for name in checked_names(names.get("classes"), classes)),
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
"""Parts of tensor names of Hugging Face's ViTModel in transformers 5, and the same in transformers 4, which the
store uses."""


def _vit_name(name: str) -> str:
    for new, old in _VIT_NAMES.items():
        name = name.replace(new, old)
    return name
