"""From a network's logits to probabilities, and on to calibrated ones.

References
----------
Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature, expected calibration error);
Platt, 1999; Zadrozny and Elkan, KDD 2002 (isotonic regression).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from inference.store.card_parts import CardCalibration, Isotonic, Platt, Temperature

Array = NDArray[np.float64]

BINS = 15
"""Bins of equal width for the expected calibration error."""
SMALLEST = 1e-7


def sigmoid(logits: NDArray[np.float32] | Array) -> Array:
    """The logistic function, without overflow."""
    half = np.tanh(0.5 * logits.astype(np.float64))
    return 0.5 * (half + 1.0)


def softmax(logits: NDArray[np.float32] | Array) -> Array:
    """Probabilities over the last axis that add up to 1, without overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


ACTIVATIONS = {"sigmoid": sigmoid, "softmax": softmax}


def logit(probabilities: Array) -> Array:
    """The inverse of the logistic function, kept finite."""
    inside = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.log(inside) - np.log1p(-inside)


def calibrate(
    calibration: CardCalibration | None, logits: Array, probabilities: Array, activation: str
) -> Array:
    """Calibrated probabilities, shape (batch, labels), in [0, 1]; without a calibration those of the model.

    Temperature acts on the logits before the activation, Platt on each label's logit (of its probability
    after a softmax), isotonic on each label's probability.
    """
    if calibration is None:
        return probabilities
    if isinstance(calibration, Temperature):
        return ACTIVATIONS[activation](logits / calibration.temperature)
    if isinstance(calibration, Platt):
        scores = logits if activation == "sigmoid" else logit(probabilities)
        return sigmoid(scores * np.array(calibration.slopes) + np.array(calibration.intercepts))
    columns = [
        np.interp(probabilities[:, index], knots, values)
        for index, (knots, values) in enumerate(zip(calibration.knots, calibration.values, strict=True))
    ]
    return np.stack(columns, axis=1)


def normalise_operating_points(probabilities: Array, operating_points: Array) -> Array:
    """Stretch probabilities so that each label's operating point becomes 0.5, as torchxrayvision does.

    Parameters
    ----------
    probabilities
        Shape (batch, labels), in [0, 1].
    operating_points
        Shape (labels,), in (0, 1); NaN leaves the label's probabilities as they are.
    """
    points = np.broadcast_to(operating_points, probabilities.shape)
    known = ~np.isnan(points)
    points = np.where(known, points, 0.5)
    below = probabilities / (2 * points)
    above = 1 - (1 - probabilities) / (2 * (1 - points))
    stretched = np.where(probabilities < points, below, above)
    return np.where(known, stretched, probabilities)


@dataclass(frozen=True, kw_only=True)
class Quality:
    """How well probabilities fit what was so: each is better when smaller."""

    expected_calibration_error: float
    brier_score: float
    log_loss: float


def quality_of(probabilities: Array, truth: Array) -> Quality:
    """Quality over all labels together; NaN in ``truth`` (cases, labels) is a label that nobody read."""
    known = ~np.isnan(truth)
    p, t = probabilities[known], truth[known]
    inside = np.clip(p, SMALLEST, 1 - SMALLEST)
    return Quality(
        expected_calibration_error=expected_calibration_error(p, t),
        brier_score=float(np.mean((p - t) ** 2)),
        log_loss=float(-np.mean(t * np.log(inside) + (1 - t) * np.log1p(-inside))),
    )


def expected_calibration_error(probabilities: Array, truth: Array, bins: int = BINS) -> float:
    """Mean distance of confidence and frequency over bins of equal width, weighted by their size."""
    index = np.minimum((probabilities * bins).astype(int), bins - 1)
    total = 0.0
    for one in range(bins):
        chosen = index == one
        if chosen.any():
            gap = abs(probabilities[chosen].mean() - truth[chosen].mean())
            total += float(gap) * float(chosen.mean())
    return total


def fit_temperature(logits: Array, truth: Array, activation: str) -> Temperature:
    """The temperature with the smallest log loss."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return quality_of(ACTIVATIONS[activation](logits / np.exp(log_temperature)), truth).log_loss

    found = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return Temperature(temperature=float(np.exp(found.x)))


def fit_platt(logits: Array, probabilities: Array, truth: Array, activation: str) -> Platt:
    """A logistic regression for each label; a label without both answers stays as it is."""
    from scipy.optimize import minimize

    scores = logits if activation == "sigmoid" else logit(probabilities)
    slopes, intercepts = [], []
    for index in range(scores.shape[1]):
        known = ~np.isnan(truth[:, index])
        x, t = scores[known, index], truth[known, index]
        if t.size == 0 or t.min() == t.max():
            slopes.append(1.0)
            intercepts.append(0.0)
            continue

        def loss(parameters: Array, x: Array = x, t: Array = t) -> float:
            z = parameters[0] * x + parameters[1]
            return float(np.mean(np.logaddexp(0, z) - t * z))

        found = minimize(loss, np.array([1.0, 0.0]), method="BFGS")
        slopes.append(float(found.x[0]))
        intercepts.append(float(found.x[1]))
    return Platt(slopes=tuple(slopes), intercepts=tuple(intercepts))


def fit_isotonic(probabilities: Array, truth: Array) -> Isotonic:
    """Isotonic regression for each label by pooling adjacent violators."""
    knots: list[tuple[float, ...]] = []
    values: list[tuple[float, ...]] = []
    for index in range(probabilities.shape[1]):
        known = ~np.isnan(truth[:, index])
        if not known.any():
            knots.append((0.0, 1.0))
            values.append((0.0, 1.0))
            continue
        x, y = _pooled(probabilities[known, index], truth[known, index])
        knots.append(tuple(x))
        values.append(tuple(y))
    return Isotonic(knots=tuple(knots), values=tuple(values))


def _pooled(x: Array, t: Array) -> tuple[list[float], list[float]]:
    """Knots and values of the isotonic fit: the ends of each pool of equal values."""
    unique, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    means = np.bincount(inverse, weights=t) / counts
    pools: list[list[float]] = []  # [value, weight, first, last]
    for position, (mean, count) in enumerate(zip(means, counts, strict=True)):
        pools.append([float(mean), float(count), unique[position], unique[position]])
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            value, weight, _, last = pools.pop()
            former = pools[-1]
            former[0] = (former[0] * former[1] + value * weight) / (former[1] + weight)
            former[1] += weight
            former[3] = last
    knots: list[float] = []
    values: list[float] = []
    for value, _, first, last in pools:
        for end in dict.fromkeys((float(first), float(last))):
            knots.append(end)
            values.append(value)
    return knots, values
