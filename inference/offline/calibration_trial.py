"""Fits a calibration on one half of labelled cases and evaluates it on the other, with a reliability diagram."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageDraw

from inference.errors import InferenceError
from inference.running.calibration import (
    ACTIVATIONS,
    Array,
    Quality,
    calibrate,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    quality_of,
)
from inference.store.card_parts import CardCalibration

METHODS = ("temperature", "platt", "isotonic")
FEWEST_CASES = 20
LEAST_GAIN = 1e-4
"""Decrease of the log loss from which a calibration is better than none."""
DIAGRAM_BINS = 10
_SIZE = 640
_MARGIN = 70


@dataclass(frozen=True, kw_only=True)
class CalibrationTrial:
    """A fitted calibration and its effect on the held-out cases; arrays have shape (held-out cases, labels)."""

    calibration: CardCalibration
    before: Quality
    after: Quality
    held_out: int
    """Number of held-out cases."""
    probabilities: Array = field(repr=False)
    calibrated: Array = field(repr=False)
    truth: Array = field(repr=False)
    """0, 1, or NaN for a label that nobody read."""

    @property
    def better(self) -> bool:
        """Whether the log loss fell by more than ``LEAST_GAIN``, and the calibration error did not grow.

        The log loss is a proper score; the calibration error alone can fall by chance because of its bins.
        """
        return (
            self.after.log_loss < self.before.log_loss - LEAST_GAIN
            and self.after.expected_calibration_error <= self.before.expected_calibration_error
        )


def try_calibration(
    method: str, logits: Array, truth: Array, activation: str, seed: int = 1
) -> CalibrationTrial:
    """Fit a calibration on a random half of the cases and evaluate it on the other half.

    Args:
        method: one of ``METHODS``.
        logits: shape (cases, labels).
        truth: the same shape; 0, 1, or NaN for a label that nobody read.
        activation: of the model, a key of ``calibration.ACTIVATIONS``.
        seed: of the random choice.

    Raises:
        InferenceError: there are too few cases, or there is no such method.
    """
    if len(logits) < FEWEST_CASES:
        raise InferenceError(
            f"{len(logits)} labelled cases are too few to fit a calibration: {FEWEST_CASES} are needed."
        )
    order = np.random.default_rng(seed).permutation(len(logits))
    fitting, held_out = order[: len(order) // 2], order[len(order) // 2 :]
    probabilities = ACTIVATIONS[activation](logits)
    calibration: CardCalibration
    if method == "temperature":
        calibration = fit_temperature(logits[fitting], truth[fitting], activation)
    elif method == "platt":
        calibration = fit_platt(logits[fitting], probabilities[fitting], truth[fitting], activation)
    elif method == "isotonic":
        calibration = fit_isotonic(probabilities[fitting], truth[fitting])
    else:
        raise InferenceError(f"there is no calibration {method!r}: use one of {', '.join(METHODS)}.")
    calibrated = calibrate(calibration, logits[held_out], probabilities[held_out], activation)
    return CalibrationTrial(
        calibration=calibration,
        before=quality_of(probabilities[held_out], truth[held_out]),
        after=quality_of(calibrated, truth[held_out]),
        held_out=len(held_out),
        probabilities=probabilities[held_out],
        calibrated=calibrated,
        truth=truth[held_out],
    )


def reliability_diagram(trial: CalibrationTrial) -> Image.Image:
    """Draw frequency over probability in ten bins, before (grey) and after (blue); the diagonal is perfect."""
    picture = Image.new("RGB", (_SIZE, _SIZE), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([_pixel_of(0, 0), _pixel_of(1, 1)], fill="#999999")
    for tenth in range(11):
        x, y = _pixel_of(tenth / 10, tenth / 10)
        draw.text((x - 8, _SIZE - _MARGIN + 8), f"{tenth / 10:.1f}", fill="black")
        draw.text((_MARGIN - 28, y - 6), f"{tenth / 10:.1f}", fill="black")
    draw.rectangle([_pixel_of(0, 1), _pixel_of(1, 0)], outline="black")
    for values, colour, name, row in (
        (trial.probabilities, "#888888", "before", 0),
        (trial.calibrated, "#1f5fbf", "after", 1),
    ):
        points = [_pixel_of(x, y) for x, y in _reliability_points(values, trial.truth)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.text((_MARGIN + 12, _MARGIN + 12 + 16 * row), name, fill=colour)
    draw.text((_SIZE // 2 - 60, _SIZE - 30), "predicted probability", fill="black")
    draw.text((10, _MARGIN - 30), "observed frequency", fill="black")
    return picture


def _reliability_points(probabilities: Array, truth: Array) -> list[tuple[float, float]]:
    """The mean probability and the frequency of each bin that has cases."""
    known = ~np.isnan(truth)
    p, t = probabilities[known], truth[known]
    bin_of = np.minimum((p * DIAGRAM_BINS).astype(int), DIAGRAM_BINS - 1)
    return [
        (float(p[bin_of == number].mean()), float(t[bin_of == number].mean()))
        for number in range(DIAGRAM_BINS)
        if (bin_of == number).any()
    ]


def _pixel_of(x: float, y: float) -> tuple[float, float]:
    """The pixel (column, row) of a point of the diagram, with coordinates in [0, 1]."""
    span = _SIZE - 2 * _MARGIN
    return _MARGIN + x * span, _SIZE - _MARGIN - y * span
