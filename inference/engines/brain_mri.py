"""Structures of the brain on MR by nnU-Net: normalisation, resampling and windows as its plans say.

References
----------
Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
Nature Methods 2021.
"""

from __future__ import annotations

from itertools import combinations
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.calibration import softmax
from inference.engines.volume import VolumeCase, VolumeEngine, labelled_segmentation
from inference.errors import ModelInvalid
from inference.findings import Analysis, Finding
from inference.volumes.plans import normalised, resampled
from inference.volumes.resampling import regular_grid, to_grid
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.store import StoredModel
    from inference.store.card import NnunetArchitecture
    from inference.volumes.windows import Augmentation

STEP = 0.5
SIGMA = 0.125
WINDOWS_AT_ONCE = 1
_SURE = 1e-6


class BrainMriEngine(VolumeEngine):
    """MR of the head (CT where the plans are for CT); one series at a time."""

    kind: ClassVar[str] = "brain_mri"
    modalities: ClassVar[tuple[str, ...]] = ("MR", "CT")
    body_parts: ClassVar[str] = "HEAD|BRAIN|SKULL|HEADNECK"
    options: ClassVar[tuple[str, ...]] = ("thresholds", "tta")

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        from safetensors.torch import load_file

        from inference.networks.volumetric import dynunet, fill_dynunet  # loads torch
        from inference.store.card import NnunetArchitecture

        card = stored.card
        if not isinstance(card.architecture, NnunetArchitecture):
            raise ModelInvalid(f"model {card.name!r} is no nnU-Net.")
        network = dynunet(card.architecture, 1 + len(card.structures))
        fill_dynunet(network, load_file(stored.weights))
        return network

    @property
    def plan(self) -> NnunetArchitecture:
        return cast("NnunetArchitecture", self.card.architecture)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Put slices on a regular grid, normalise and resample."""
        modality = volume.frames[0].trait("Modality")
        if self.card.modalities and modality not in self.card.modalities:
            return f"the model is for {' or '.join(self.card.modalities)}, not for {modality}"
        assert self.card.volume is not None and self.card.volume.spacing is not None
        grid = regular_grid(volume)
        values = to_grid(volume, grid, outside=float(volume.values.min()))
        image = normalised(values, self.plan.normalisation, self.plan.intensity)
        return VolumeCase(
            volume=volume, prepared=(grid, resampled(image, grid.spacing, self.card.volume.spacing))
        )

    def drawn_probabilities(self) -> list[NDArray[np.floating]]:
        """Of every class in each voxel of a drawn window of a head."""
        import torch

        from inference.volumes.phantoms import head_phantom

        slices, rows, columns = self.plan.patch_size
        head = head_phantom(0, slices, max(rows, columns), lesion=True, haemorrhage=True)
        window = normalised(head.values[:, :rows, :columns], self.plan.normalisation, self.plan.intensity)
        batch = torch.from_numpy(window)[None, None].repeat(1, self.plan.input_channels, 1, 1, 1)
        logits = cast("Tensor", self.run(batch)).float().cpu().numpy()
        return [softmax(np.moveaxis(logits, 1, -1))]

    def analyse(self, case: VolumeCase) -> Analysis:
        from inference.volumes.windows import sliding_window

        started = perf_counter()
        grid, image = cast("tuple[Grid, NDArray[np.float32]]", case.prepared)
        patch = self.plan.patch_size
        stride = [max(1, int(size * STEP)) for size in patch]
        mirrored = bool(self.settings.options.get("tta", True))

        def predict(windows: Tensor) -> Tensor:
            return cast("Tensor", self.run(windows)).float()

        logits = sliding_window(
            image,
            predict,
            patch=patch,
            stride=(stride[0], stride[1], stride[2]),
            batch_size=WINDOWS_AT_ONCE,
            channels=1 + len(self.card.structures),
            sigma=SIGMA,
            augmentations=mirrorings() if mirrored else (),
            device=str(self.placement.device),
        )
        # nnU-Net resamples the logits of each class back to the image and decides there.
        back = np.stack(
            [resampled(channel, self._spacing, grid.spacing, shape=grid.shape, order=1) for channel in logits]
        )
        shifted = np.exp(back - back.max(axis=0))
        probabilities = shifted / shifted.sum(axis=0)
        values_of = np.array([0, *(structure.value for structure in self.card.structures)], dtype=np.uint16)
        channels = {structure.name: 1 + i for i, structure in enumerate(self.card.structures)}
        findings = []
        for label in self.reported.values():
            certainty = float(probabilities[channels[label.name.replace("_", " ")]].max())
            bounded = min(max(certainty, _SURE), 1 - _SURE)
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
            started,
            findings,
            tta_applied=mirrored,
            segmentation=labelled_segmentation(
                values_of[back.argmax(axis=0)], grid, case.volume.frames, self.card.structures
            ),
        )

    @property
    def _spacing(self) -> tuple[float, float, float]:
        assert self.card.volume is not None and self.card.volume.spacing is not None
        return self.card.volume.spacing


def mirrorings() -> list[Augmentation]:
    """Every combination of flips, as nnU-Net mirrors."""
    from inference.volumes.windows import Augmentation

    return [Augmentation(flips=axes) for count in (1, 2, 3) for axes in combinations((0, 1, 2), count)]
