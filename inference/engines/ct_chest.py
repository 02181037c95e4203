"""Nodules and pulmonary embolism on chest CT: on each window a 3D U-Net gives masks and a ResNet gives labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.checking.expectations import CHEST_CT
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.engines.windowed import WindowedEngine
from inference.errors import ModelInvalid
from inference.findings import Analysis, Finding
from inference.running.calibration import ACTIVATIONS, calibrate
from inference.volumes.normalisation import network_input
from inference.volumes.resampling import regular_grid, to_grid
from inference.volumes.segmentation import labelled_segmentation
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.store import StoredModel
    from inference.store.expects import Expectations

AIR_HU = -1024.0
OVERLAP = 0.5
"""Of neighbouring windows, as a share of their size."""
MASK_LEVEL = 0.5
"""A voxel belongs to its most probable structure if that probability is at least this."""


@dataclass(frozen=True, kw_only=True)
class ChestOutput:
    """The networks' decision on a volume."""

    logits: NDArray[np.float64]
    """The largest of any window, shape (labels,)."""
    classes: NDArray[np.uint16] = field(repr=False)
    """The value of each voxel's structure on the model's grid, 0 for none."""


class CtChestEngine(WindowedEngine):
    """CT of the chest; a label's certainty is the largest of any window."""

    kind: ClassVar[str] = "ct_chest"
    body_parts: ClassVar[str] = ".*(CHEST|THORAX|LUNG|ABDOMEN|BODY|TRUNK).*"
    expects: ClassVar[Expectations | None] = CHEST_CT
    fewest_slices: ClassVar[int] = 8
    window = (-600.0, 1500.0)

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        """The U-Net and the ResNet of the card, with their weights.

        Raises:
            ModelInvalid: the card names another architecture or no structures, or the weights do not fit.
        """
        from inference.networks.volumetric import UnetResnet  # loads torch
        from inference.networks.weights import with_weights
        from inference.store.architectures import UnetResnetArchitecture

        card = stored.card
        if not isinstance(card.architecture, UnetResnetArchitecture) or not card.structures:
            raise ModelInvalid(f"model {card.name!r} is not a U-Net with a ResNet and structures.")
        network = UnetResnet(card.architecture, structures=len(card.structures), labels=len(card.labels))
        return with_weights(network, stored)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Resample the volume to the model's spacing in mm."""
        assert self.card.volume is not None
        grid = regular_grid(volume, self.card.volume.spacing)
        return VolumeCase(volume=volume, inputs=to_grid(volume, grid, outside=AIR_HU), prepared=grid)

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of the structures in each voxel of a phantom's window, and of its labels."""
        import torch

        from inference.demo.volume_phantoms import lung_phantom

        assert self.card.volume is not None
        preprocessing = self.card.volume
        values = lung_phantom(0, (self.card.input_size,) * 3, nodules=2).values
        window = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        masks, logits = self.results(torch.from_numpy(window)[None, None])
        return [masks.cpu().numpy(), ACTIVATIONS[self.card.activation](logits.float().cpu().numpy())]

    @classmethod
    def results_of(cls, output: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
        """The probabilities of the structures in each voxel, and the logits of the labels."""
        masks, logits = output
        return masks.float().sigmoid(), logits

    def run_volume(self, case: VolumeCase) -> ChestOutput:
        """Run the networks on overlapping windows, and combine their masks and labels."""
        from inference.volumes.windows import sliding_window

        preprocessing = self.card.volume
        assert preprocessing is not None
        window_logits: list[NDArray[np.float64]] = []

        def predict(windows: Tensor) -> Tensor:
            masks, logits = self.results(windows)
            window_logits.append(logits.double().cpu().numpy())
            return masks

        size = self.card.input_size
        step = max(1, round(size * (1 - OVERLAP)))
        masks = sliding_window(
            network_input(
                case.network_inputs, preprocessing.low, preprocessing.high, preprocessing.normalisation
            ),
            predict,
            patch=(size, size, size),
            stride=(step, step, step),
            batch_size=self.windows_at_once((size, size, size)),
            channels=len(self.card.structures),
            device=str(self.placement.device),
        )
        values_of = np.array([0, *(structure.value for structure in self.card.structures)], dtype=np.uint16)
        best = np.where(masks.max(axis=0) >= MASK_LEVEL, masks.argmax(axis=0) + 1, 0)
        return ChestOutput(logits=np.concatenate(window_logits).max(axis=0), classes=values_of[best])

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """A finding for each label, and the segmentation."""
        grid = cast("Grid", case.prepared)
        decided = cast("ChestOutput", output.values)
        logits = decided.logits[None]
        probabilities = ACTIVATIONS[self.card.activation](logits)
        calibrated = calibrate(self.card.calibration, logits, probabilities, self.card.activation)
        findings = [
            Finding(
                label=label,
                logit=float(logits[0, column]),
                probability=float(probabilities[0, column]),
                calibrated_probability=float(calibrated[0, column]),
            )
            for column, label in self.reported.items()
        ]
        return self.analysis(
            case,
            output,
            findings,
            absence=self.card.absence(logits[0], probabilities[0], calibrated[0]),
            exclusive=self.card.activation == "softmax",
            segmentation=labelled_segmentation(
                decided.classes, grid, case.volume.frames, self.card.structures
            ),
        )
