"""From a network's logits to probabilities, and on to calibrated ones.

References: Guo et al., "On Calibration of Modern Neural Networks", ICML 2017 (temperature, expected calibration
error); Platt, 1999; Zadrozny and Elkan, KDD 2002 (isotonic regression).
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
"""Distance of probabilities from 0 and 1 before a logarithm, which keeps it finite."""


def sigmoid(logits: NDArray[np.float32] | Array) -> Array:
    """The logistic function, computed without overflow."""
    half = np.tanh(0.5 * logits.astype(np.float64))
    return 0.5 * (half + 1.0)


def softmax(logits: NDArray[np.float32] | Array) -> Array:
    """Probabilities that add up to 1 over the last axis, computed without overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


ACTIVATIONS = {"sigmoid": sigmoid, "softmax": softmax}


def logit(probabilities: Array) -> Array:
    """The inverse of the logistic function, finite also for 0 and 1."""
    clipped = np.clip(probabilities, SMALLEST, 1 - SMALLEST)
    return np.log(clipped) - np.log1p(-clipped)


def calibrate(
    calibration: CardCalibration | None, logits: Array, probabilities: Array, activation: str
) -> Array:
    """Calibrated probabilities in [0, 1], shape (batch, labels); without a calibration, those of the model.

    Temperature scaling divides the logits before the activation. Platt scaling acts on each label's logit, after
    a softmax on the logit of its probability. Isotonic regression acts on each label's probability.

    Args:
        calibration: of the model card, or None.
        logits: shape (batch, labels).
        probabilities: the same after the activation.
        activation: a key of ``ACTIVATIONS``.
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

    Args:
        probabilities: shape (batch, labels), in [0, 1].
        operating_points: shape (labels,), in (0, 1); NaN leaves a label's probabilities as they are.
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
    """How well probabilities agree with the truth; smaller is better in every field."""

    expected_calibration_error: float
    brier_score: float
    log_loss: float


def quality_of(probabilities: Array, truth: Array) -> Quality:
    """The quality over all labels together.

    Args:
        probabilities: shape (cases, labels), in [0, 1].
        truth: the same shape; 0, 1, or NaN for a label that nobody read.
    """
    known = ~np.isnan(truth)
    p, t = probabilities[known], truth[known]
    clipped = np.clip(p, SMALLEST, 1 - SMALLEST)
    return Quality(
        expected_calibration_error=expected_calibration_error(p, t),
        brier_score=float(np.mean((p - t) ** 2)),
        log_loss=float(-np.mean(t * np.log(clipped) + (1 - t) * np.log1p(-clipped))),
    )


def expected_calibration_error(probabilities: Array, truth: Array, bins: int = BINS) -> float:
    """Mean difference of confidence and frequency over bins of equal width, weighted by the cases in each bin."""
    bin_of = np.minimum((probabilities * bins).astype(int), bins - 1)
    total = 0.0
    for number in range(bins):
        inside = bin_of == number
        if inside.any():
            gap = abs(probabilities[inside].mean() - truth[inside].mean())
            total += float(gap) * float(inside.mean())
    return total


def fit_temperature(logits: Array, truth: Array, activation: str) -> Temperature:
    """The temperature in [exp(-3), exp(3)] with the smallest log loss; arguments as in :func:`quality_of`."""
    from scipy.optimize import minimize_scalar

    def loss(log_temperature: float) -> float:
        return quality_of(ACTIVATIONS[activation](logits / np.exp(log_temperature)), truth).log_loss

    minimum = minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return Temperature(temperature=float(np.exp(minimum.x)))


def fit_platt(logits: Array, probabilities: Array, truth: Array, activation: str) -> Platt:
    """Fit a logistic regression for each label; a label without both positive and negative cases is unchanged."""
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

        minimum = minimize(loss, np.array([1.0, 0.0]), method="BFGS")
        slopes.append(float(minimum.x[0]))
        intercepts.append(float(minimum.x[1]))
    return Platt(slopes=tuple(slopes), intercepts=tuple(intercepts))


def fit_isotonic(probabilities: Array, truth: Array) -> Isotonic:
    """Fit an isotonic regression for each label by pooling adjacent violators; a label without cases is unchanged."""
    knots: list[tuple[float, ...]] = []
    values: list[tuple[float, ...]] = []
    for index in range(probabilities.shape[1]):
        known = ~np.isnan(truth[:, index])
        if not known.any():
            knots.append((0.0, 1.0))
            values.append((0.0, 1.0))
            continue
        x, y = _isotonic_fit(probabilities[known, index], truth[known, index])
        knots.append(tuple(x))
        values.append(tuple(y))
    return Isotonic(knots=tuple(knots), values=tuple(values))


def _isotonic_fit(x: Array, t: Array) -> tuple[list[float], list[float]]:
    """The knots and values of the fit of ``t`` by ``x``: both ends of each pool of equal values."""
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
