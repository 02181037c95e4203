"""Structures on CT or MR by nnU-Net; its plans set axes, crop, normalisation, resampling and windows.

References: Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image
segmentation", Nature Methods 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import combinations
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.engines.options import NnunetOptions
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.engines.windowed import WindowedEngine
from inference.errors import ModelInvalid
from inference.findings import Analysis, Finding
from inference.running.calibration import softmax
from inference.settings import EngineOptions
from inference.store.names import normalised_name
from inference.volumes.plans import Box, Spacing, arranged, nonzero, normalised, resampled
from inference.volumes.resampling import regular_grid, to_grid
from inference.volumes.segmentation import labelled_segmentation
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.store import StoredModel
    from inference.store.architectures import NnunetArchitecture

SIGMA = 0.125
"""Standard deviation of the windows' Gaussian weights, as a share of the window (nnU-Net's own)."""
_PROBABILITY_MARGIN = 1e-6
"""Distance of probabilities from 0 and 1 in logits, which keeps these finite."""
_SPACING_DECIMALS = 6
"""Spacings that are equal in the header must stay equal: the resampled shape and the coarse axis depend on it."""


@dataclass(frozen=True, kw_only=True)
class NnunetOutput:
    """The network's decision on a volume."""

    classes: NDArray[np.uint16] = field(repr=False)
    """Label values of the part of the volume that the network saw, shape of its box."""
    certainties: dict[str, float]
    """The highest probability of each labelled structure, by normalised name."""


class NnunetEngine(WindowedEngine):
    """CT or MR of any body part, one series at a time; the plans say which modality."""

    kind: ClassVar[str] = "nnunet"
    calibrates: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...]] = ("MR", "CT")
    options: ClassVar[type[EngineOptions]] = NnunetOptions

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        """The network of the plans, or the mean of several folds, with the weights.

        Raises:
            ModelInvalid: the card is not for nnU-Net, or the weights do not fit.
        """
        from inference.networks.volumetric import FoldMean, dynunet, fill_dynunet  # loads torch
        from inference.networks.weights import load_weights
        from inference.store.architectures import NnunetArchitecture

        card = stored.card
        if not isinstance(card.architecture, NnunetArchitecture):
            raise ModelInvalid(f"model {card.name!r} is not an nnU-Net.")
        networks = [
            dynunet(card.architecture, 1 + len(card.structures)) for _ in range(card.architecture.folds)
        ]
        network = networks[0] if len(networks) == 1 else FoldMean(networks)
        load_weights(stored, lambda tensors: fill_dynunet(network, tensors))
        return network

    @classmethod
    def results_of(cls, output: Tensor) -> tuple[Tensor, ...]:
        """The logits of every class in each voxel."""
        return (output.float(),)

    @property
    def plan(self) -> NnunetArchitecture:
        """The card's architecture by its own type."""
        return cast("NnunetArchitecture", self.card.architecture)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Put the slices on a regular grid, order its axes, crop, normalise and resample to the plans' spacing."""
        modality = volume.frames[0].trait("Modality")
        if self.card.modalities and modality not in self.card.modalities:
            return f"the model is for {' or '.join(self.card.modalities)}, not for {modality}"
        plan, grid = self.plan, regular_grid(volume)
        values, grid = arranged(
            to_grid(volume, grid, outside=float(volume.values.min())),
            grid,
            canonical=plan.canonical,
            transpose=plan.transpose,
        )
        box, mask = nonzero(values)
        image = normalised(values[box], plan.normalisation, plan.intensity, mask if plan.masked else None)
        return VolumeCase(
            volume=volume,
            inputs=resampled(image, _spacing(grid), self._trained_spacing),
            prepared=(grid, box),
        )

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of every class in each voxel of a window of a head phantom."""
        import torch

        from inference.demo.volume_phantoms import head_phantom

        slices, rows, columns = self.plan.patch_size
        head = head_phantom(0, slices, max(rows, columns), lesion=True, haemorrhage=True)
        window = normalised(head.values[:, :rows, :columns], self.plan.normalisation, self.plan.intensity)
        batch = torch.from_numpy(window)[None, None].repeat(1, self.plan.input_channels, 1, 1, 1)
        logits = self.results(batch)[0].cpu().numpy()
        return [softmax(np.moveaxis(logits, 1, -1))]

    def run_volume(self, case: VolumeCase) -> NnunetOutput:
        """Run the network on overlapping windows, and decide the structures on the volume's grid.

        They are decided here because the logits of all classes can be gigabytes.
        """
        from inference.volumes.windows import Augmentation, sliding_window

        grid, box = cast("tuple[Grid, Box]", case.prepared)
        axes = self._mirrored_axes
        mirrored = [
            Augmentation(flips=flips) for n in range(len(axes)) for flips in combinations(axes, n + 1)
        ]

        def predict(windows: Tensor) -> Tensor:
            return self.results(windows)[0]

        logits = sliding_window(
            case.network_inputs,
            predict,
            patch=self.plan.patch_size,
            stride=None,
            batch_size=self.windows_at_once(self.plan.patch_size),
            channels=1 + len(self.card.structures),
            blending="nnunet",
            sigma=SIGMA,
            augmentations=mirrored,
            device=str(self.placement.device),
        )
        boxed = np.empty(grid.shape, dtype=bool)[box].shape
        classes, certainties = self._labels_and_certainties(logits, _spacing(grid), boxed)
        return NnunetOutput(classes=classes, certainties=certainties)

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """A finding for each labelled structure, and the segmentation."""
        grid, box = cast("tuple[Grid, Box]", case.prepared)
        decided = cast("NnunetOutput", output.values)
        classes = np.zeros(grid.shape, dtype=np.uint16)
        classes[box] = decided.classes
        findings = []
        for label in self.reported.values():
            certainty = decided.certainties[normalised_name(label.name)]
            bounded = min(max(certainty, _PROBABILITY_MARGIN), 1 - _PROBABILITY_MARGIN)
            findings.append(
                Finding(
                    label=label,
                    logit=float(np.log(bounded / (1 - bounded))),
                    probability=certainty,
                    calibrated_probability=certainty,
                )
            )
        return self.analysis(
            case,
            output,
            findings,
            ensemble_size=self.plan.folds,
            tta_applied=bool(self._mirrored_axes),
            segmentation=labelled_segmentation(classes, grid, case.volume.frames, self.card.structures),
        )

    def _labels_and_certainties(
        self, logits: NDArray[np.float32], spacing: Spacing, shape: tuple[int, ...]
    ) -> tuple[NDArray[np.uint16], dict[str, float]]:
        """The label values at the image's own voxels, and the highest probability of each labelled structure.

        nnU-Net resamples the logits of all classes back to the image and decides there. Here one class follows
        the other, so that memory does not grow with their number.

        Args:
            logits: shape (classes, ...) on the plans' spacing; the first class is the background.
            spacing: of the image, in mm.
            shape: of the image, in voxels.
        """
        label_names = {normalised_name(label.name) for label in self.reported.values()}
        size = (shape[0], shape[1], shape[2])
        best = resampled(logits[0], self._trained_spacing, spacing, shape=size, order=1)
        total = best.astype(np.float64)
        classes = np.zeros(size, dtype=np.uint16)
        labelled_logits: dict[str, NDArray[np.float32]] = {}
        for structure, channel in zip(self.card.structures, logits[1:], strict=True):
            back = resampled(channel, self._trained_spacing, spacing, shape=size, order=1)
            classes[back > best] = structure.value
            best = np.maximum(best, back)
            if label_names:
                np.logaddexp(total, back, out=total)
            if (name := normalised_name(structure.name)) in label_names:
                labelled_logits[name] = back
        return classes, {name: float(np.exp(back - total).max()) for name, back in labelled_logits.items()}

    @property
    def _mirrored_axes(self) -> tuple[int, ...]:
        """The axes along which the image is mirrored, with one pass for each combination."""
        return self.plan.mirror_axes if self.settings.checked(NnunetOptions).tta else ()

    @property
    def _trained_spacing(self) -> Spacing:
        assert self.card.volume is not None and self.card.volume.spacing is not None
        return self.card.volume.spacing


def _spacing(grid: Grid) -> Spacing:
    """The spacing of a grid in mm, rounded."""
    first, second, third = (round(mm, _SPACING_DECIMALS) for mm in grid.spacing)
    return first, second, third
