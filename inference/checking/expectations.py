"""What models of a region of the body may expect of every patient, and what a set of cases adds to that.

Refusing needs a reason that holds for all patients, so those limits are anatomy's, written here or in a card by
hand. What training data did not have is unfamiliar and no more: their ranges advise a review.

References
----------
Values of tissues in Hounsfield units: Kamalian et al., "Computed tomography imaging and angiography -
principles", Handbook of Clinical Neurology 135, 2016 (grey matter 37 to 41, white matter 20 to 30, liquor 0 to
15, clotted blood 50 to 75, bone 1000). The limits are far outside of them and ours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.store.expects import Expectations, Joint, Limits
from inference.store.measures import MEASURES

WIDENED = 0.5
"""A computed range reaches beyond the cases by this share of its own width, on both sides."""
LEAST_WIDENED = 0.1
"""And at least by this share of its largest value."""
CASES_FOR_A_FIGURE = 30
"""Fewer cases a figure give no covariance that could be relied on."""
SHRINKAGE = 0.01
"""Of the correlation matrix towards the identity, so that figures which nearly repeat each other do no harm."""
JOINT_WIDENED = 1.25
"""The largest joint distance of the cases times this is the largest that needs no review."""
LEAST_DEVIATION = 1e-6
LEAST_SHARE = 0.005
"""And, where it is a share of the picture, at least by this."""

_NO_HEAD = "this may be no head of a patient"
_NO_CHEST = "this may be no chest of a patient"
_NO_RADIOGRAPH = "this may be no radiograph of a chest"

HEAD_CT = Expectations(
    modalities=("CT",),
    body_parts=".*(HEAD|BRAIN|SKULL|ORBIT|FACE).*",
    measures={
        "body": Limits(refuse=(0.05, None), meaning="there is hardly anything in the picture"),
        "bone": Limits(refuse=(0.02, 0.60), review=(0.08, 0.40), meaning=_NO_HEAD),
        "soft_tissue": Limits(refuse=(0.20, None), review=(0.35, None), meaning=_NO_HEAD),
        "tissue_hu": Limits(refuse=(10, 60), review=(20, 45), meaning=_NO_HEAD),
        "structure_hu": Limits(
            refuse=(1, None), review=(4, None), meaning="this may be a phantom of one material, not a head"
        ),
        "metal": Limits(review=(None, 0.01), meaning="metal disturbs the picture"),
        "field_of_view_mm": Limits(refuse=(80, 550), review=(120, 350), meaning=_NO_HEAD),
    },
)
"""CT of the head without or with contrast medium, from newborns to adults."""

CHEST_CT = Expectations(
    modalities=("CT",),
    measures={
        "body": Limits(refuse=(0.005, None), meaning="there is hardly anything in the picture"),
        "lung": Limits(refuse=(0.01, None), review=(0.05, None), meaning=_NO_CHEST),
        "metal": Limits(review=(None, 0.01), meaning="metal disturbs the picture"),
    },
)
"""CT that shows lung, if only its bases."""

CHEST_RADIOGRAPH = Expectations(
    modalities=("CR", "DX", "DR", "RG"),
    measures={
        "contrast": Limits(refuse=(0.02, None), review=(0.08, None), meaning="there is hardly a picture"),
        "entropy_bits": Limits(refuse=(0.5, None), review=(3, None), meaning="there is hardly a picture"),
        "symmetry": Limits(review=(0.2, None), meaning=_NO_RADIOGRAPH),
        "detail": Limits(review=(None, 0.08), meaning=_NO_RADIOGRAPH),
    },
)
"""Frontal radiographs of the chest. Exposure and processing differ so much that only blank ones are refused."""


def with_cases(base: Expectations, cases: Sequence[Mapping[str, float]]) -> Expectations:
    """Expectations with review ranges computed of the figures of training cases.

    Every figure that all cases have gets the range from its smallest to its largest value, widened on both sides.
    Of many cases the figures' joint distribution is kept, too: real radiographs lie within each range of drawn
    ones, and outside of all of them together.
    What is refused and what values mean stay as in ``base``, and so do its other figures.

    Raises:
        ValueError: there are no cases.
    """
    if not cases:
        raise ValueError("there are no cases to compute ranges of")
    measures = dict(base.measures)
    for name in cases[0]:
        values = [case[name] for case in cases if name in case]
        if len(values) == len(cases):
            known = measures.get(name, Limits())
            measures[name] = known.model_copy(update={"review": _range(name, values)})
    return base.model_copy(
        update={"measures": measures, "joint": _joint(list(measures), cases), "cases": len(cases)}
    )


def _joint(names: Sequence[str], cases: Sequence[Mapping[str, float]]) -> Joint | None:
    """The figures that all cases have and that differ; None where there are too few cases for a covariance."""
    chosen = [name for name in names if all(name in case for case in cases)]
    values = np.array([[case[name] for name in chosen] for case in cases])
    deviations = values.std(axis=0)
    differ = deviations > LEAST_DEVIATION
    if not differ.any() or len(cases) < CASES_FOR_A_FIGURE * int(differ.sum()):
        return None
    values, deviations = values[:, differ], deviations[differ]
    means = values.mean(axis=0)
    away = (values - means) / deviations
    correlation = np.atleast_2d(away.T @ away / len(cases))
    precision = np.linalg.inv(correlation + SHRINKAGE * (np.eye(len(means)) - correlation))
    distances = np.sqrt(np.einsum("ni,ij,nj->n", away, precision, away))
    return Joint(
        names=tuple(name for name, differs in zip(chosen, differ, strict=True) if differs),
        means=_rounded(means),
        deviations=_rounded(deviations),
        precision=tuple(_rounded(row) for row in precision),
        most=float(f"{JOINT_WIDENED * distances.max():.3g}"),
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)


def _range(name: str, values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(
        WIDENED * (high - low),
        LEAST_WIDENED * max(abs(low), abs(high)),
        LEAST_SHARE if MEASURES[name].percent else 0.0,
    )
    lowest = low - margin if low < 0 else max(low - margin, 0.0)
    return float(f"{lowest:.3g}"), float(f"{high + margin:.3g}")
