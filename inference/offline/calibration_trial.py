"""Fitting a calibration on one half of labelled cases and judging it on the other, with its diagram."""

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
"""Of log loss, for a calibration to be kept: the identity gains nothing."""
DIAGRAM_BINS = 10
_SIZE = 640
_MARGIN = 70


@dataclass(frozen=True, kw_only=True)
class CalibrationTrial:
    """A fitted calibration and what it does to the cases that it was not fitted on."""

    calibration: CardCalibration
    before: Quality
    after: Quality
    held_out: int
    """Cases that decided."""
    probabilities: Array = field(repr=False)
    calibrated: Array = field(repr=False)
    truth: Array = field(repr=False)

    @property
    def better(self) -> bool:
        """Whether the held-out cases are likelier by more than rounding, and their calibration error did not grow.

        The log loss is a proper score; the calibration error alone can fall by chance of its bins.
        """
        return (
            self.after.log_loss < self.before.log_loss - LEAST_GAIN
            and self.after.expected_calibration_error <= self.before.expected_calibration_error
        )


def try_calibration(
    method: str, logits: Array, truth: Array, activation: str, seed: int = 1
) -> CalibrationTrial:
    """Fit on one half of the cases, chosen by the seed, and judge on the other.

    ``logits`` and ``truth`` have shape (cases, labels); truth is 0, 1 or NaN for a label that nobody read.

    Raises:
        InferenceError: there are too few cases, or no such method.
    """
    if len(logits) < FEWEST_CASES:
        raise InferenceError(
            f"{len(logits)} labelled cases are too few to fit a calibration: {FEWEST_CASES} are needed."
        )
    order = np.random.default_rng(seed).permutation(len(logits))
    fitting, judging = order[: len(order) // 2], order[len(order) // 2 :]
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
    calibrated = calibrate(calibration, logits[judging], probabilities[judging], activation)
    return CalibrationTrial(
        calibration=calibration,
        before=quality_of(probabilities[judging], truth[judging]),
        after=quality_of(calibrated, truth[judging]),
        held_out=len(judging),
        probabilities=probabilities[judging],
        calibrated=calibrated,
        truth=truth[judging],
    )


def reliability_diagram(trial: CalibrationTrial) -> Image.Image:
    """Confidence against frequency before (grey) and after (blue), in ten bins; the diagonal is perfect."""
    picture = Image.new("RGB", (_SIZE, _SIZE), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([_place(0, 0), _place(1, 1)], fill="#999999")
    for tenth in range(11):
        x, y = _place(tenth / 10, tenth / 10)
        draw.text((x - 8, _SIZE - _MARGIN + 8), f"{tenth / 10:.1f}", fill="black")
        draw.text((_MARGIN - 28, y - 6), f"{tenth / 10:.1f}", fill="black")
    draw.rectangle([_place(0, 1), _place(1, 0)], outline="black")
    for values, colour, name, row in (
        (trial.probabilities, "#888888", "before", 0),
        (trial.calibrated, "#1f5fbf", "after", 1),
    ):
        points = [_place(x, y) for x, y in _bins(values, trial.truth)]
        if len(points) > 1:
            draw.line(points, fill=colour, width=2)
        for x, y in points:
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=colour)
        draw.text((_MARGIN + 12, _MARGIN + 12 + 16 * row), name, fill=colour)
    draw.text((_SIZE // 2 - 60, _SIZE - 30), "predicted probability", fill="black")
    draw.text((10, _MARGIN - 30), "observed frequency", fill="black")
    return picture


def _bins(probabilities: Array, truth: Array) -> list[tuple[float, float]]:
    """Mean probability and frequency of each bin that has cases."""
    known = ~np.isnan(truth)
    p, t = probabilities[known], truth[known]
    index = np.minimum((p * DIAGRAM_BINS).astype(int), DIAGRAM_BINS - 1)
    return [
        (float(p[index == one].mean()), float(t[index == one].mean()))
        for one in range(DIAGRAM_BINS)
        if (index == one).any()
    ]


def _place(x: float, y: float) -> tuple[float, float]:
    span = _SIZE - 2 * _MARGIN
    return _MARGIN + x * span, _SIZE - _MARGIN - y * span
