"""What the engines share that judge slices and then decide on the volume."""

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
DRAWN_SLICES = 8
STRAIGHT = 0.999
"""Cosine between a slice's normal and an axis of the patient from which on the slice has one place along it."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """Logits of the volume (classes,) and of its slices (slices, classes)."""

    volume: NDArray[np.float64]
    slices: NDArray[np.float64] = field(repr=False)


class SliceWiseEngine(VolumeEngine):
    """Each slice goes through an image network; a kind says how the slices decide."""

    slices_at_once: ClassVar[int] = 16
    window = (40.0, 80.0)

    @property
    def image_network(self) -> Network:
        """The network for one slice, or one stack of slices."""
        raise NotImplementedError

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """Network inputs (n, channels, size, size) for chosen slices."""
        raise NotImplementedError

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """Judge all slices, shape (slices, size, size), and the volume."""
        raise NotImplementedError

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Clip, normalise and resize every slice."""
        return VolumeCase(volume=volume, prepared=prepared_slices(volume.values, self.card))

    def drawn_probabilities(self) -> list[NDArray[np.floating]]:
        """Of the slices of a drawn head, and of all of them together."""
        from inference.demo.volume_phantoms import head_phantom

        head = head_phantom(0, DRAWN_SLICES, self.card.input_size, lesion=True, haemorrhage=True)
        decision = self.decide(prepared_slices(head.values, self.card))
        activation = ACTIVATIONS[self.card.activation]
        return [activation(decision.slices), activation(decision.volume)]

    def analyse(self, case: VolumeCase) -> Analysis:
        started = perf_counter()
        slices = case.prepared
        decision = self.decide(slices)
        activation = ACTIVATIONS[self.card.activation]
        probabilities = activation(decision.volume[None])
        calibrated = calibrate(
            self.card.calibration, decision.volume[None], probabilities, self.card.activation
        )[0]
        by_slice = activation(decision.slices)
        findings, key_images = [], []
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
            key_images.append((output, label, certainty, present, shown))
        wanted = [k for k in key_images if k[3]] or [max(key_images, key=lambda k: k[2])]
        return self.analysis(
            case,
            started,
            findings,
            absence=self.card.absence(decision.volume, probabilities[0], calibrated),
            exclusive=self.card.activation == "softmax",
            key_images=tuple(
                image
                for output, label, _, _, shown in wanted
                for image in self._shown(case.volume, slices, output, label, shown, by_slice)
            ),
        )

    def _shown(
        self,
        volume: Volume,
        slices: NDArray[np.float32],
        output: int,
        label: Label,
        chosen: Sequence[int],
        by_slice: NDArray[np.float64],
    ) -> list[KeyImage]:
        """Deciding slices with their Grad-CAM."""
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
    """What a reader looks for in the series to see a slice, and where it lies in the patient (LPS, mm).

    That is its Instance Number or the frame of an Enhanced image. The tiles of a mosaic and slices without a
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
    if abs(frame.plane.normal[axis]) < STRAIGHT:
        return name
    return f"{name}, {'xyz'[axis]} {round(frame.plane.position[axis], 1) + 0.0:.1f} mm"


def prepared_slices(slices: NDArray[np.generic], card: ModelCard) -> NDArray[np.float32]:
    """The slices as the card's network sees them, shape (slices, size, size)."""
    from inference.volumes.normalisation import network_input, resized  # loads torch

    assert card.volume is not None
    wanted = card.volume
    result = np.empty((len(slices), card.input_size, card.input_size), dtype=np.float32)
    for target, values in zip(result, slices, strict=True):
        picture = network_input(values, wanted.low, wanted.high, wanted.normalisation)
        target[:] = resized(picture, card.input_size, wanted.resize)
    return result
