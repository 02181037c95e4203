"""A classification network on its device: images in, logits and features out.

There are two backends: PyTorch on any device, and OpenVINO on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.demo.phantoms import chest_phantom
from inference.images.preprocessing import SCALES
from inference.networks import Network
from inference.networks.weights import load_network
from inference.running.calibration import ACTIVATIONS, sigmoid
from inference.running.device import Placement, place
from inference.running.explanation import Target, explain
from inference.running.precision import check_precision
from inference.running.recorded import RecordedPasses
from inference.settings import EngineSettings

if TYPE_CHECKING:
    from inference.running.openvino_backend import CompiledNetwork
    from inference.store import ModelCard, StoredModel

PHANTOMS = 8


@dataclass(frozen=True, kw_only=True)
class Classification:
    """A network's result for one batch; ``feature_maps`` and ``images`` stay on the device, for explanations."""

    logits: NDArray[np.float32]
    """Shape (batch, outputs), on the CPU."""
    feature_maps: Tensor
    images: Tensor
    """The batch, shape (batch, channels, rows, columns)."""


class Classifier:
    """A network with its weights, on one device and in one number format."""

    def __init__(
        self, network: Network, placement: Placement, compiled: CompiledNetwork | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False).to(placement.device)
        self._recorded_passes: RecordedPasses | None = None
        if placement.device.type == "cuda":
            self._recorded_passes = RecordedPasses()
            self.network = self.network.to(memory_format=torch.channels_last)
        self._placement = placement
        self._compiled = compiled

    @classmethod
    def load(cls, settings: EngineSettings, stored: StoredModel) -> Self:
        """Load a stored model onto the device and backend that the settings name.

        Raises:
            ModelInvalid: the weights do not fit the architecture that the card names.
            EngineMisconfigured: this machine does not have what the settings ask for, or the model needs a higher
                precision.
        """
        placement = place(settings)
        network = load_network(stored)
        compiled = None
        if placement.backend == "openvino":
            from inference.running.openvino_backend import CompiledNetwork, converted_model

            compiled = CompiledNetwork(
                converted_model(stored),
                threads=torch.get_num_threads(),
                bf16=placement.dtype == torch.bfloat16,
            )
        classifier = cls(network, placement, compiled)
        if placement.reduced:
            images = phantom_radiographs(stored.card)
            reference = cls(network, placement.exact())
            check_precision(
                settings,
                stored.card.name,
                classifier.probabilities(images, stored.card.activation),
                reference.probabilities(images, stored.card.activation),
            )
        return classifier

    def probabilities(self, images: NDArray[np.float32], activation: str) -> list[NDArray[np.float64]]:
        """The probabilities of the outputs (batch, outputs) and, if the network has concepts, of their maps."""
        classification = self.classify(images)
        with torch.no_grad():
            maps = self.network.concept_maps(classification.feature_maps)
        map_probabilities = [] if maps is None else [sigmoid(maps.cpu().numpy())]
        return [ACTIVATIONS[activation](classification.logits), *map_probabilities]

    @property
    def device(self) -> str:
        """Name of the device, for example ``cpu`` or ``cuda:0 NVIDIA H200``."""
        return self._placement.name

    def classify(self, images: NDArray[np.float32]) -> Classification:
        """Run one forward pass for images of shape (batch, channels, rows, columns)."""
        if self._compiled is not None:
            output, maps = self._compiled(images)
            return Classification(
                logits=output, feature_maps=torch.from_numpy(maps), images=torch.from_numpy(images)
            )
        batch = torch.from_numpy(images).to(self._placement.device)
        if batch.is_cuda:
            batch = batch.contiguous(memory_format=torch.channels_last)
        if self._recorded_passes is None:
            feature_maps, logits = self.run(batch)
        else:
            feature_maps, logits = self._recorded_passes(self.run, batch)
        return Classification(logits=logits.cpu().numpy(), feature_maps=feature_maps, images=batch)

    def run(self, batch: Tensor) -> tuple[Tensor, Tensor]:
        """The feature maps and logits, both float32, of a batch on the device."""
        with torch.no_grad():
            with self._placement.autocast():
                feature_maps = self.network.feature_maps(batch)
            feature_maps = feature_maps.float()
            return feature_maps, self.network.classify(feature_maps)

    def explain(
        self, classification: Classification, targets: Sequence[Target], method: str = "Grad-CAM"
    ) -> list[NDArray[np.float32]]:
        """One map for each target, see :func:`inference.running.explanation.explain`."""
        return explain(self.network, classification.feature_maps, classification.images, targets, method)


def phantom_radiographs(card: ModelCard) -> NDArray[np.float32]:
    """A fixed batch of phantoms as input for a card's network, shape (batch, channels, size, size)."""
    pictures = np.stack([chest_phantom(seed, card.input_size).picture for seed in range(PHANTOMS)])
    grey = pictures[:, None].repeat(card.input_channels, axis=1)
    return SCALES[card.preprocessing.style].to_input(grey).astype(np.float32)
