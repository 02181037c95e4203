"""Several predictions of one image as one: members, scales and views, their mean and how far they differ."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.classifier import Classification, Classifier
from inference.explanation import Target
from inference.preprocessing import InputScale

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
    """One network of an ensemble; weights are relative to the others'."""

    classifier: Classifier
    input_size: int
    weight: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """What an ensemble says of a batch.

    ``logits`` and ``probabilities`` are weighted means, shape (batch, outputs); ``individual`` has every
    member's probabilities, shape (predictions, batch, outputs); ``deviation`` is their standard deviation.
    """

    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    individual: NDArray[np.float64]
    deviation: NDArray[np.float64]
    passes: tuple[tuple[Member, View, Classification], ...] = field(repr=False)
    weights: tuple[float, ...]

    def explain(self, targets: Sequence[Target], method: str) -> list[NDArray[np.float32]]:
        """One map per target: the weighted mean of all passes' maps, views undone, scaled to [0, 1]."""
        if not targets:
            return []
        total: list[NDArray[np.float32]] | None = None
        for (member, view, classification), weight in zip(self.passes, self.weights, strict=True):
            maps = [view.undo(one) for one in member.classifier.explain(classification, targets, method)]
            if total is None:
                total = [weight * one for one in maps]
            else:
                total = [
                    _same_grid(one, sum_.shape) * weight + sum_ for one, sum_ in zip(maps, total, strict=True)
                ]
        assert total is not None
        if len(self.passes) == 1:
            return [one / np.float32(self.weights[0]) for one in total]
        return [(one / max(float(one.max()), 1e-7)).astype(np.float32) for one in total]


def predict(
    members: Sequence[Member],
    inputs: dict[int, Images],
    scale: InputScale,
    activation: Callable[[NDArray[np.float32]], NDArray[np.float64]],
    *,
    augment: bool,
) -> Prediction:
    """Run every member on every view and combine.

    ``inputs`` has the batch as network input for each size that a member needs.
    """
    passes: list[tuple[Member, View, Classification]] = []
    weights: list[float] = []
    for member in members:
        images = inputs[member.input_size]
        for view in AUGMENTATIONS if augment else (ORIGINAL,):
            seen = images if view is ORIGINAL else scale.to_input(view.apply(scale.to_brightness(images)))
            passes.append((member, view, member.classifier.classify(seen)))
            weights.append(member.weight)
    shares = tuple(weight / sum(weights) for weight in weights)
    logits = np.stack([c.logits.astype(np.float64) for _, _, c in passes])
    individual = np.stack([activation(c.logits) for _, _, c in passes])
    return Prediction(
        logits=np.einsum("n,nbc->bc", shares, logits),
        probabilities=np.einsum("n,nbc->bc", shares, individual),
        individual=individual,
        deviation=individual.std(axis=0),
        passes=tuple(passes),
        weights=shares,
    )


def _same_grid(one: NDArray[np.float32], shape: tuple[int, ...]) -> NDArray[np.float32]:
    if one.shape == shape:
        return one
    from inference.resampling import resample, triangle_axis

    return resample(one, triangle_axis(one.shape[0], shape[0]), triangle_axis(one.shape[1], shape[1]))
