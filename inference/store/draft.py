"""A model before it is in the store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from inference.store.architectures import Architecture
from inference.store.card import ModelCard
from inference.store.card_parts import CardLabel, Preprocessing

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A model before it is in the store: its tensors, and its card except for name, origin and digest."""

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
    """Contents of text files that belong to the model, by name."""

    def card(self, *, name: str, origin: str, sha256: str) -> ModelCard:
        """The complete card of the model; ``sha256`` is the digest of its weights file."""
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
