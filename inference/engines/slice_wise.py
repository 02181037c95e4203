"""The base of the engines that classify slices and then decide on the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from inference.engines.volume import VolumeCase, VolumeEngine, heat_picture, slice_picture
from inference.findings import Analysis, Finding, Heatmap, KeyImage, Label, Presence
from inference.running.calibration import ACTIVATIONS, calibrate
from inference.volumes.volume import Volume

if TYPE_CHECKING:
    from inference.networks.network import Network
    from inference.store import ModelCard

SHOWN_SLICES = 3
"""Most slices that are shown for one label."""
PHANTOM_SLICES = 8
SMALLEST_COSINE = 0.999
"""Between a slice's normal and an axis of the patient, if the slice is to have one position on that axis."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Logits of a volume and of its slices."""

    volume: NDArray[np.float64]
    """Shape (classes,)."""
    slices: NDArray[np.float64] = field(repr=False)
    """Shape (slices, classes)."""


class SliceWiseEngine(VolumeEngine):
    """An image network classifies each slice; each kind says how the slices decide on the volume."""

    slices_at_once: ClassVar[int] = 16
    window = (40.0, 80.0)

    @property
    def image_network(self) -> Network:
        """The network for one slice, or one stack of slices."""
        raise NotImplementedError

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """The network's input for chosen slices.

        Args:
            slices: all prepared slices, shape (slices, size, size).
            chosen: their indices.

        Returns:
            Shape (n, channels, size, size).
        """
        raise NotImplementedError

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """The logits of all prepared slices, shape (slices, size, size), and of the volume."""
        raise NotImplementedError

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Clip, normalise and resize every slice."""
        return VolumeCase(volume=volume, prepared=prepared_slices(volume.values, self.card))

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of the slices of a head phantom, and of its volume."""
        from inference.demo.volume_phantoms import head_phantom

        head = head_phantom(0, PHANTOM_SLICES, self.card.input_size, lesion=True, haemorrhage=True)
        decision = self.decide(prepared_slices(head.values, self.card))
        activation = ACTIVATIONS[self.card.activation]
        return [activation(decision.slices), activation(decision.volume)]

    def analyse(self, case: VolumeCase) -> Analysis:
        """Classify the slices and the volume, and show the slices that decided.

        Slices are shown for the findings that are present; if there are none, for the most probable one.
        """
        started = perf_counter()
        slices = case.prepared
        decision = self.decide(slices)
        activation = ACTIVATIONS[self.card.activation]
        probabilities = activation(decision.volume[None])
        calibrated = calibrate(
            self.card.calibration, decision.volume[None], probabilities, self.card.activation
        )[0]
        by_slice = activation(decision.slices)
        findings, shown_labels = [], []
        for output, label in self.reported.items():
            certainty = float(calibrated[output])
            order = np.argsort(-by_slice[:, output], kind="stable")[:SHOWN_SLICES]
            present = label.thresholds.presence(certainty) is Presence.PRESENT
            if not present:
                order = order[:1]
            shown = [int(s) for s in order if s == order[0] or by_slice[s, output] >= label.thresholds.high]
            findings.append(
                Finding(
                    label=label,
                    logit=float(decision.volume[output]),
                    probability=float(probabilities[0, output]),
                    calibrated_probability=certainty,
                    individual_predictions=tuple(float(p) for p in by_slice[:, output]),
                    image=case.volume.frames[shown[0]].source,
                )
            )
            shown_labels.append((output, label, certainty, present, shown))
        labels_to_show = [entry for entry in shown_labels if entry[3]] or [
            max(shown_labels, key=lambda e: e[2])
        ]
        return self.analysis(
            case,
            started,
            findings,
            absence=self.card.absence(decision.volume, probabilities[0], calibrated),
            exclusive=self.card.activation == "softmax",
            key_images=tuple(
                image
                for output, label, _, _, shown in labels_to_show
                for image in self._key_images(case.volume, slices, output, label, shown, by_slice)
            ),
        )

    def _key_images(
        self,
        volume: Volume,
        slices: NDArray[np.float32],
        output: int,
        label: Label,
        chosen: Sequence[int],
        by_slice: NDArray[np.float64],
    ) -> list[KeyImage]:
        """The chosen slices with their Grad-CAM for one output."""
        import torch

        from inference.running.explanation import explain

        network = self.image_network
        batch = torch.from_numpy(self.stacks(slices, chosen)).to(self.placement.device)
        with torch.no_grad(), self.placement.autocast():
            features = network.feature_maps(batch).float()
        maps = explain(network, features, batch, [(row, output) for row in range(len(chosen))])
        return [
            KeyImage(
                source=volume.frames[number].source,
                title=slice_name(volume, number),
                label=label,
                certainty=float(by_slice[number, output]),
                picture=slice_picture(volume.values[number], volume.frames[number], self.window),
                heatmap=Heatmap(values=heat_picture(heat, volume.frames[number]), method="Grad-CAM"),
            )
            for number, heat in zip(chosen, maps, strict=True)
        ]


def slice_name(volume: Volume, number: int) -> str:
    """The name by which a reader finds a slice in the series, and its position in the patient (LPS, mm).

    The name is the Instance Number or the frame of an Enhanced image. Tiles of a mosaic and slices without a
    number are counted along the volume's normal.
    """
    frame = volume.frames[number]
    source = frame.source
    whole = (frame.rows, frame.columns) == (source.rows, source.columns)
    if source.frame is not None:
        name = f"frame {source.frame}"
    elif whole and frame.instance_number > 0:
        name = f"image {frame.instance_number}"
    else:
        name = f"slice {number + 1} of {len(volume.frames)}"
    axis = int(np.abs(frame.plane.normal).argmax())
    if abs(frame.plane.normal[axis]) < SMALLEST_COSINE:
        return name
    return f"{name}, {'xyz'[axis]} {round(frame.plane.position[axis], 1) + 0.0:.1f} mm"


def prepared_slices(slices: NDArray[np.generic], card: ModelCard) -> NDArray[np.float32]:
    """Clip, normalise and resize slices as the card says; the result has shape (slices, size, size)."""
    from inference.volumes.normalisation import network_input, resized  # loads torch

    assert card.volume is not None
    preprocessing = card.volume
    result = np.empty((len(slices), card.input_size, card.input_size), dtype=np.float32)
    for target, values in zip(result, slices, strict=True):
        picture = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        target[:] = resized(picture, card.input_size, preprocessing.resize)
    return result
