"""Importing the pneumonia system: an EfficientNet-B0 with a softmax over NORMAL and PNEUMONIA."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from inference.errors import ModelInvalid
from inference.importing.checkpoint import checked_names
from inference.store.architectures import TorchvisionArchitecture
from inference.store.card_parts import Preprocessing
from inference.store.draft import Draft
from inference.store.names import is_absence
from inference.store.pathologies import chest_label

if TYPE_CHECKING:
    from torch import Tensor


def is_pneumonia(facts: Mapping[str, Any]) -> bool:
    """Whether a checkpoint says that it is the pneumonia system's."""
    return bool(facts.get("architecture") == "efficientnet_b0")


def pneumonia_model(
    tensors: dict[str, Tensor], facts: Mapping[str, Any], classes: Sequence[str] | None = None
) -> Draft:
    """An EfficientNet-B0 with a softmax over its classes; ``classes`` names them if the checkpoint does not.

    Raises:
        ModelInvalid: the classes are unknown or do not fit the outputs.
    """
    if "classifier.1.weight" not in tensors:
        raise ModelInvalid("the checkpoint is no EfficientNet-B0 of torchvision: it has no classifier.")
    outputs = int(tensors["classifier.1.weight"].shape[0])
    found = checked_names(classes or facts.get("class_names"), outputs)
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
