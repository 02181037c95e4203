"""Several predictions of one image as one: members, scales and views, their mean and how far they differ.

Each member says what it says alone: it has its own input, activation, calibration and operating points, and
its classes are found by their names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from inference.images.localization import REGION_GRID, heatmap_values
from inference.images.preprocessing import SCALES, Field, InputForm, field_of
from inference.images.resampling import resample, triangle_axis
from inference.running.calibration import ACTIVATIONS, Array, calibrate, logit, normalise_operating_points
from inference.running.classifier import Classification, Classifier
from inference.running.explanation import Target
from inference.store.card import ModelCard

Images = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class View:
    """A changed look at an image for test-time augmentation, and how its maps are changed back.

    ``apply`` takes brightness in [0, 1], shape (batch, channels, rows, columns).
    """

    name: str
    apply: Callable[[Images], Images]
    undo: Callable[[NDArray[np.float32]], NDArray[np.float32]] = field(default=lambda one: one)


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
    """One model of an ensemble; ``weight`` is relative to the others'.

    ``columns`` are its outputs in the order of the ensemble's classes.
    """

    card: ModelCard
    classifier: Classifier
    columns: tuple[int, ...]
    sizes: tuple[int, ...]
    weight: float = 1.0

    @property
    def forms(self) -> tuple[InputForm, ...]:
        """The inputs that it looks at, one for each size."""
        given = self.card.preprocessing
        return tuple(
            InputForm(size=size, style=given.style, voi=given.voi, channels=self.card.input_channels)
            for size in self.sizes
        )

    @cached_property
    def operating_points(self) -> Array:
        """Of its outputs, shape (outputs,); NaN where there is none."""
        points = [label.operating_point for label in self.card.labels]
        return np.array([np.nan if point is None else point for point in points])

    def probabilities(self, logits: Array | Images) -> Array:
        """What the network says, shape (batch, outputs)."""
        return ACTIVATIONS[self.card.activation](logits)

    def calibrated(self, logits: Array, probabilities: Array) -> Array:
        """What its card makes of that: the calibration, then the operating points."""
        known = calibrate(self.card.calibration, logits, probabilities, self.card.activation)
        return normalise_operating_points(known, self.operating_points)


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One look of one member at a batch. ``share`` of the ensemble's mean; all of them add up to 1."""

    member: Member
    view: View
    share: float
    classification: Classification = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class LocatedMap:
    """A map in [0, 1] of a part of an image."""

    values: NDArray[np.float32]
    field: Field


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What an ensemble says of a batch; shapes are (batch, classes).

    ``logits`` and ``probabilities`` are means over passes, ``calibrated`` is the mean of what the members' cards
    make of theirs. ``individual`` has every pass' calibrated probabilities, shape (passes, batch, classes);
    ``deviation`` is their standard deviation.
    """

    logits: Array
    probabilities: Array
    calibrated: Array
    individual: Array
    deviation: Array
    passes: tuple[Pass, ...] = field(repr=False)

    def explain(
        self, targets: Sequence[Target], method: str, shapes: Sequence[tuple[int, int]]
    ) -> list[LocatedMap]:
        """One map per target (row, class): the mean of all passes' maps, views undone, scaled to [0, 1].

        ``shapes`` are the rows and columns of the batch's images. Maps of members that see different parts of
        the image are put together on the whole of it.
        """
        styles = [one.member.card.preprocessing.style for one in self.passes]
        fields = [[field_of(style, *shapes[row]) for style in styles] for row, _ in targets]
        total: list[NDArray[np.float32]] = []
        for number, one in enumerate(self.passes):
            member = one.member
            wanted = [(row, member.columns[output]) for row, output in targets]
            maps = [one.view.undo(m) for m in member.classifier.explain(one.classification, wanted, method)]
            for target, (row, _) in enumerate(targets):
                if len(set(fields[target])) > 1:
                    grid = (REGION_GRID, REGION_GRID)
                    maps[target] = heatmap_values(maps[target], fields[target][number], shapes[row], grid)
            shares = [np.float32(one.share) * m for m in maps]
            total = (
                shares
                if not total
                else [_same_grid(m, t.shape) + t for m, t in zip(shares, total, strict=True)]
            )
        if len(self.passes) > 1:
            total = [(one / max(float(one.max()), 1e-7)).astype(np.float32) for one in total]
        return [
            LocatedMap(values=values, field=seen[0] if len(set(seen)) == 1 else _whole(shapes[row]))
            for values, seen, (row, _) in zip(total, fields, targets, strict=True)
        ]


def predict(members: Sequence[Member], inputs: Mapping[InputForm, Images], *, augment: bool) -> Prediction:
    """Run every member on every size and view and combine.

    ``inputs`` has the batch in each form that a member needs. A member's passes are averaged first, as they
    were when its calibration was fitted, then the members.
    """
    passes: list[Pass] = []
    logits, probabilities, calibrated, individual = [], [], [], []
    weight = sum(member.weight for member in members)
    for member in members:
        views = AUGMENTATIONS if augment else (ORIGINAL,)
        looks = [(form, view) for form in member.forms for view in views]
        share = member.weight / weight / len(looks)
        own: list[Array] = []
        for form, view in looks:
            images, scale = inputs[form], SCALES[form.style]
            seen = images if view is ORIGINAL else scale.to_input(view.apply(scale.to_brightness(images)))
            classification = member.classifier.classify(seen)
            passes.append(Pass(member=member, view=view, share=share, classification=classification))
            own.append(classification.logits.astype(np.float64))
        said = [member.probabilities(one) for one in own]
        individual += [member.calibrated(*both)[:, member.columns] for both in zip(own, said, strict=True)]
        mean_logits, mean_said = np.mean(own, axis=0), np.mean(said, axis=0)
        logits.append(mean_logits[:, member.columns])
        probabilities.append(mean_said[:, member.columns])
        calibrated.append(member.calibrated(mean_logits, mean_said)[:, member.columns])
    shares = [member.weight / weight for member in members]
    mean = np.einsum("m,mbc->bc", shares, probabilities)
    alike = len({member.card.activation for member in members}) == 1
    return Prediction(
        # A logit under a sigmoid and one under a softmax mean different things; their mean would mean nothing.
        logits=np.einsum("m,mbc->bc", shares, logits) if alike else logit(mean),
        probabilities=mean,
        calibrated=np.einsum("m,mbc->bc", shares, calibrated),
        individual=np.stack(individual),
        deviation=np.std(individual, axis=0),
        passes=tuple(passes),
    )


def _whole(shape: tuple[int, int]) -> Field:
    return Field(row=0, column=0, rows=shape[0], columns=shape[1])


def _same_grid(one: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if one.shape == shape:
        return one
    return resample(one, triangle_axis(one.shape[0], shape[0]), triangle_axis(one.shape[1], shape[1]))
