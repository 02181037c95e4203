"""A classification network on its device: weights in, logits and explanations out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from inference.device import Placement, place
from inference.errors import ModelInvalid
from inference.explanation import Target, explain
from inference.networks import DenseNet, build_network
from inference.settings import EngineSettings

if TYPE_CHECKING:
    from inference.store import StoredModel


@dataclass(frozen=True, kw_only=True)
class Classification:
    """What a network says of one batch.

    ``logits`` is float32 of shape (batch, outputs), on the CPU; ``feature_maps`` stay on the device.
    """

    logits: NDArray[np.float32]
    feature_maps: Tensor


class Classifier:
    """A network with its weights, on one device and in one number format."""

    def __init__(self, network: DenseNet, placement: Placement) -> None:
        self._network = network.eval().requires_grad_(False).to(placement.device)
        self._placement = placement

    @classmethod
    def load(cls, settings: EngineSettings, stored: StoredModel) -> Self:
        """Load a stored model's weights (safetensors only) where the settings say.

        Raises
        ------
        ModelInvalid
            If the weights are not those of the architecture that the card names.
        EngineMisconfigured
            If this machine does not have what the settings ask for.
        """
        placement = place(settings)
        if placement.device.type == "cpu":
            torch.set_num_threads(len(os.sched_getaffinity(0)))
        network = build_network(stored.card)
        try:
            network.load_state_dict(load_file(stored.weights), strict=True)
        except Exception as error:  # safetensors and torch raise several kinds for weights that do not fit
            raise ModelInvalid(
                f"the weights of model {stored.card.name!r} do not fit its card ({type(error).__name__}); "
                "run: overread models verify"
            ) from error
        return cls(network, placement)

    @property
    def device(self) -> str:
        """The device by name, for example ``cpu`` or ``cuda:0 NVIDIA H200``."""
        return self._placement.name

    def classify(self, images: NDArray[np.float32]) -> Classification:
        """One forward pass for images of shape (batch, channels, rows, columns), float32."""
        batch = torch.from_numpy(images).to(self._placement.device)
        with torch.no_grad():
            with self._placement.autocast():
                feature_maps = self._network.feature_maps(batch)
            feature_maps = feature_maps.float()
            logits = self._network.classify(feature_maps)
        return Classification(logits=logits.cpu().numpy(), feature_maps=feature_maps)

    def explain(self, classification: Classification, targets: Sequence[Target]) -> list[NDArray[np.float32]]:
        """One small map per target, as :func:`inference.explanation.explain` makes it."""
        return explain(self._network, classification.feature_maps, targets)
