"""Several predictions of one image, by members, scales and views, combined to their mean and deviation.

Each member predicts as it would alone, with its own input, activation, calibration and operating points. Its
classes are matched by name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.images.localization import REGION_GRID, LocatedMap, heatmap_values
from inference.images.preprocessing import SCALES, Field, InputForm, field_of
from inference.images.resampling import resample, triangle_axis
from inference.running.calibration import ACTIVATIONS, Array, calibrate, logit, normalise_operating_points
from inference.running.classifier import Classification, Classifier
from inference.running.explanation import Target
from inference.store.card import ModelCard

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class View:
    """One augmentation of an image at test time."""

    name: str
    apply: Callable[[Images], Images]
    """Changes images, brightness in [0, 1] of shape (batch, channels, rows, columns)."""
    undo: Callable[[NDArray[np.float32]], NDArray[np.float32]] = field(default=lambda values: values)
    """Brings a map of the changed image back to the original."""


def _flipped(images: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.ascontiguousarray(images[..., ::-1])


ORIGINAL = View(name="original", apply=lambda images: images)
AUGMENTATIONS = (
    ORIGINAL,
    View(name="horizontal flip", apply=_flipped, undo=_flipped),
    View(name="brightness +10 %", apply=lambda images: np.minimum(images * np.float32(1.1), 1)),
    View(name="brightness -10 %", apply=lambda images: images * np.float32(0.9)),
)
"""The views of test-time augmentation."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """One model of an ensemble."""

    card: ModelCard
    classifier: Classifier
    columns: tuple[int, ...]
    """Its outputs, in the order of the ensemble's classes."""
    sizes: tuple[int, ...]
    """Edges of the input in pixels, with one pass for each."""
    weight: float = 1.0
    """Relative to the weights of the other members."""

    @property
    def forms(self) -> tuple[InputForm, ...]:
        """The forms of input that the member needs, one for each size."""
        preprocessing = self.card.preprocessing
        return tuple(
            InputForm(
                size=size,
                style=preprocessing.style,
                voi=preprocessing.voi,
                channels=self.card.input_channels,
            )
            for size in self.sizes
        )

    @cached_property
    def operating_points(self) -> Array:
        """The operating points of the outputs, shape (outputs,); NaN for labels without one."""
        points = [label.operating_point for label in self.card.labels]
        return np.array([np.nan if point is None else point for point in points])

    def probabilities(self, logits: Array | Images) -> Array:
        """The activation of logits, shape (batch, outputs)."""
        return ACTIVATIONS[self.card.activation](logits)

    def calibrated(self, logits: Array, probabilities: Array) -> Array:
        """The probabilities after the card's calibration and operating points, shape (batch, outputs)."""
        calibrated = calibrate(self.card.calibration, logits, probabilities, self.card.activation)
        return normalise_operating_points(calibrated, self.operating_points)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One forward pass of one member for one size and view of a batch."""

    member: Member
    view: View
    share: float
    """Weight in the ensemble's mean; the shares of all passes add up to 1."""
    classification: Classification = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """An ensemble's prediction for a batch; shapes are (batch, classes) unless noted."""

    logits: Array
    """Mean over the members; from the mean probabilities if the members' activations differ."""
    probabilities: Array
    """Mean over the members."""
    calibrated: Array
    """Mean of the members' calibrated probabilities."""
    individual: Array
    """Calibrated probabilities of each pass, shape (passes, batch, classes)."""
    deviation: Array
    """Standard deviation of ``individual`` over the passes."""
    passes: tuple[Pass, ...] = field(repr=False)

    def explain(
        self, targets: Sequence[Target], method: str, shapes: Sequence[tuple[int, int]]
    ) -> list[LocatedMap]:
        """One map for each target: the mean of the maps of all passes, with views undone, scaled to [0, 1].

        If members see different parts of an image, its map covers the whole image.

        Args:
            targets: (row of the batch, class).
            method: a key of :data:`inference.running.explanation.METHODS`.
            shapes: rows and columns of each image of the batch.
        """
        styles = [run.member.card.preprocessing.style for run in self.passes]
        fields = [[field_of(style, *shapes[row]) for style in styles] for row, _ in targets]
        total: list[NDArray[np.float32]] = []
        for number, run in enumerate(self.passes):
            member = run.member
            own_targets = [(row, member.columns[output]) for row, output in targets]
            maps = [
                run.view.undo(values)
                for values in member.classifier.explain(run.classification, own_targets, method)
            ]
            for target, (row, _) in enumerate(targets):
                if len(set(fields[target])) > 1:
                    grid = (REGION_GRID, REGION_GRID)
                    maps[target] = heatmap_values(maps[target], fields[target][number], shapes[row], grid)
            weighted = [np.float32(run.share) * values for values in maps]
            total = (
                weighted
                if not total
                else [_resampled_to(m, t.shape) + t for m, t in zip(weighted, total, strict=True)]
            )
        if len(self.passes) > 1:
            total = [(values / max(float(values.max()), 1e-7)).astype(np.float32) for values in total]
        return [
            LocatedMap(values=values, field=seen[0] if len(set(seen)) == 1 else _whole_image(shapes[row]))
            for values, seen, (row, _) in zip(total, fields, targets, strict=True)
        ]


def predict(members: Sequence[Member], inputs: Mapping[InputForm, Images], *, augment: bool) -> Prediction:
    """Run every member on every size and view, and combine the results.

    The passes of a member are averaged first, because its calibration was fitted to their mean; then the members.

    Args:
        members: at least one.
        inputs: the batch in each form that a member needs, shape (batch, channels, size, size).
        augment: whether to use all views of ``AUGMENTATIONS``.
    """
    passes: list[Pass] = []
    logits, probabilities, calibrated, individual = [], [], [], []
    total_weight = sum(member.weight for member in members)
    for member in members:
        views = AUGMENTATIONS if augment else (ORIGINAL,)
        looks = [(form, view) for form in member.forms for view in views]
        share = member.weight / total_weight / len(looks)
        own_logits: list[Array] = []
        for form, view in looks:
            images, scale = inputs[form], SCALES[form.style]
            seen = images if view is ORIGINAL else scale.to_input(view.apply(scale.to_brightness(images)))
            classification = member.classifier.classify(seen)
            passes.append(Pass(member=member, view=view, share=share, classification=classification))
            own_logits.append(classification.logits.astype(np.float64))
        own_probabilities = [member.probabilities(values) for values in own_logits]
        individual += [
            member.calibrated(*both)[:, member.columns]
            for both in zip(own_logits, own_probabilities, strict=True)
        ]
        mean_logits, mean_probabilities = np.mean(own_logits, axis=0), np.mean(own_probabilities, axis=0)
        logits.append(mean_logits[:, member.columns])
        probabilities.append(mean_probabilities[:, member.columns])
        calibrated.append(member.calibrated(mean_logits, mean_probabilities)[:, member.columns])
    shares = [member.weight / total_weight for member in members]
    mean = np.einsum("m,mbc->bc", shares, probabilities)
    same_activation = len({member.card.activation for member in members}) == 1
    return Prediction(
        # Logits of a sigmoid and of a softmax mean different things, and their mean would mean nothing.
        logits=np.einsum("m,mbc->bc", shares, logits) if same_activation else logit(mean),
        probabilities=mean,
        calibrated=np.einsum("m,mbc->bc", shares, calibrated),
        individual=np.stack(individual),
        deviation=np.std(individual, axis=0),
        passes=tuple(passes),
    )


def _whole_image(shape: tuple[int, int]) -> Field:
    return Field(row=0, column=0, rows=shape[0], columns=shape[1])


def _resampled_to(values: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if values.shape == shape:
        return values
    return resample(
        values, triangle_axis(values.shape[0], shape[0]), triangle_axis(values.shape[1], shape[1])
    )
