"""The base of the engines that classify slices and then decide on the volume."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.engines.volume import VolumeEngine
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.findings import Analysis, Finding, Heatmap, KeyImage, Label, Presence
from inference.running.calibration import ACTIVATIONS, calibrate
from inference.volumes.normalisation import network_input, resized
from inference.volumes.pictures import heat_picture, slice_picture
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


@dataclass(frozen=True, kw_only=True)
class ExplainedDecision:
    """A decision, and the maps that explain it."""

    decision: Decision
    maps: dict[int, NDArray[np.float32]] = field(repr=False)
    """Grad-CAM of the slices to show, in their order, by the network's output; shape (shown, rows, columns)."""


@dataclass(frozen=True, kw_only=True)
class _Judged:
    """One label's decision on a volume, and the slices that show it, the most probable first."""

    output: int
    label: Label
    probability: float
    certainty: float
    present: bool
    slices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class _Judgement:
    """A decision by the card's activation, calibration and thresholds."""

    probabilities: NDArray[np.float64]
    """Of the volume, shape (classes,)."""
    calibrated: NDArray[np.float64]
    by_slice: NDArray[np.float64]
    """Probabilities of the slices, shape (slices, classes)."""
    labels: tuple[_Judged, ...]

    @property
    def to_show(self) -> tuple[_Judged, ...]:
        """The labels that are present; if there are none, the most probable one."""
        present = tuple(judged for judged in self.labels if judged.present)
        return present or (max(self.labels, key=lambda judged: judged.certainty),)


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
        return VolumeCase(volume=volume, inputs=prepared_slices(volume.values, self.card))

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of the slices of a head phantom, and of its volume."""
        from inference.demo.volume_phantoms import head_phantom

        head = head_phantom(0, PHANTOM_SLICES, self.card.input_size, lesion=True, haemorrhage=True)
        decision = self.decide(prepared_slices(head.values, self.card))
        activation = ACTIVATIONS[self.card.activation]
        return [activation(decision.slices), activation(decision.volume)]

    def run_volume(self, case: VolumeCase) -> ExplainedDecision:
        """Classify the slices and the volume, and explain the slices that decided."""
        decision = self.decide(case.network_inputs)
        shown = self._judge(decision).to_show
        maps = {judged.output: self._grad_cam(case.network_inputs, judged) for judged in shown}
        return ExplainedDecision(decision=decision, maps=maps)

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """A finding for each label, with the slices that decided.

        Slices are shown for the findings that are present; if there are none, for the most probable one.
        """
        explained = cast("ExplainedDecision", output.values)
        decision = explained.decision
        judgement = self._judge(decision)
        findings = [
            Finding(
                label=judged.label,
                logit=float(decision.volume[judged.output]),
                probability=judged.probability,
                calibrated_probability=judged.certainty,
                individual_predictions=tuple(float(p) for p in judgement.by_slice[:, judged.output]),
                image=case.volume.frames[judged.slices[0]].source,
            )
            for judged in judgement.labels
        ]
        return self.analysis(
            case,
            output,
            findings,
            absence=self.card.absence(decision.volume, judgement.probabilities, judgement.calibrated),
            exclusive=self.card.activation == "softmax",
            key_images=tuple(
                self._key_image(case.volume, number, judged, judgement.by_slice, heat)
                for judged in judgement.to_show
                for number, heat in zip(judged.slices, explained.maps[judged.output], strict=True)
            ),
        )

    def _judge(self, decision: Decision) -> _Judgement:
        activation = ACTIVATIONS[self.card.activation]
        probabilities = activation(decision.volume[None])
        calibrated = calibrate(
            self.card.calibration, decision.volume[None], probabilities, self.card.activation
        )[0]
        by_slice = activation(decision.slices)
        labels = []
        for output, label in self.reported.items():
            certainty = float(calibrated[output])
            order = np.argsort(-by_slice[:, output], kind="stable")[:SHOWN_SLICES]
            present = label.thresholds.presence(certainty) is Presence.PRESENT
            if not present:
                order = order[:1]
            shown = (int(s) for s in order if s == order[0] or by_slice[s, output] >= label.thresholds.high)
            labels.append(
                _Judged(
                    output=output,
                    label=label,
                    probability=float(probabilities[0, output]),
                    certainty=certainty,
                    present=present,
                    slices=tuple(shown),
                )
            )
        return _Judgement(
            probabilities=probabilities[0], calibrated=calibrated, by_slice=by_slice, labels=tuple(labels)
        )

    def _grad_cam(self, slices: NDArray[np.float32], judged: _Judged) -> NDArray[np.float32]:
        """The Grad-CAM of a label's slices to show, shape (shown, rows, columns)."""
        import torch

        from inference.running.explanation import explain

        network = self.image_network
        batch = torch.from_numpy(self.stacks(slices, judged.slices)).to(self.placement.device)
        with torch.no_grad(), self.placement.autocast():
            features = network.feature_maps(batch).float()
        targets = [(row, judged.output) for row in range(len(judged.slices))]
        return np.stack(explain(network, features, batch, targets))

    def _key_image(
        self,
        volume: Volume,
        number: int,
        judged: _Judged,
        by_slice: NDArray[np.float64],
        heat: NDArray[np.float32],
    ) -> KeyImage:
        frame = volume.frames[number]
        return KeyImage(
            source=frame.source,
            title=slice_name(volume, number),
            label=judged.label,
            certainty=float(by_slice[number, judged.output]),
            picture=slice_picture(volume.values[number], frame, self.window),
            heatmap=Heatmap(values=heat_picture(heat, frame), method="Grad-CAM"),
        )


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
    assert card.volume is not None
    preprocessing = card.volume
    result = np.empty((len(slices), card.input_size, card.input_size), dtype=np.float32)
    for target, values in zip(result, slices, strict=True):
        picture = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        target[:] = resized(picture, card.input_size, preprocessing.resize)
    return result
