"""What a model may expect of every patient, by body region, and of inputs like its training cases.

An input is refused only for a reason that holds for all patients. Those limits follow from anatomy and are written
by hand, here or in a card. An input unlike the training cases is merely unfamiliar: their ranges advise a review.

References: Kamalian et al., "Computed tomography imaging and angiography - principles", Handbook of Clinical
Neurology 135, 2016, for tissues in Hounsfield units (grey matter 37 to 41, white matter 20 to 30, liquor 0 to 15,
clotted blood 50 to 75, bone 1000). The limits are our own and lie far outside these values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from inference.store.expects import Expectations, Joint, Limits
from inference.store.measures import MEASURES

MARGIN_OF_WIDTH = 0.5
"""A computed range extends beyond the cases on both sides by this share of its own width."""
MARGIN_OF_VALUE = 0.1
"""The margin is at least this share of the largest absolute value."""
MARGIN_OF_SHARES = 0.005
"""The margin is at least this for figures that are shares of the picture."""
CASES_PER_FIGURE = 30
"""With fewer cases for each figure, a covariance is not reliable."""
SHRINKAGE = 0.01
"""Of the correlation matrix towards the identity, which keeps it invertible if figures nearly repeat each other."""
JOINT_FACTOR = 1.25
"""A review is advised beyond this multiple of the largest joint distance of the cases."""
LEAST_DEVIATION = 1e-6
"""Figures with a smaller standard deviation count as constant."""

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
"""CT that shows at least the bases of the lungs."""

CHEST_RADIOGRAPH = Expectations(
    modalities=("CR", "DX", "DR", "RG"),
    measures={
        "contrast": Limits(refuse=(0.02, None), review=(0.08, None), meaning="there is hardly a picture"),
        "entropy_bits": Limits(refuse=(0.5, None), review=(3, None), meaning="there is hardly a picture"),
        "symmetry": Limits(review=(0.2, None), meaning=_NO_RADIOGRAPH),
        "detail": Limits(review=(None, 0.08), meaning=_NO_RADIOGRAPH),
    },
)
"""Frontal radiographs of the chest. Only blank ones are refused, because exposure and processing vary widely."""


def with_learned_ranges(base: Expectations, cases: Sequence[Mapping[str, float]]) -> Expectations:
    """Expectations with ranges for review, computed from the figures of training cases.

    Every figure that all cases have gets the range from its smallest to its largest value, widened on both sides.
    With enough cases, the figures' joint distribution is added: a real radiograph can lie within every single
    range of synthetic ones, and yet be unlike them in the combination of its figures.

    Args:
        base: limits for refusal, meanings and further figures, which are kept.
        cases: figures of each case, by the names of ``measures.MEASURES``.

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
            measures[name] = known.model_copy(update={"review": _review_range(name, values)})
    return base.model_copy(
        update={
            "measures": measures,
            "joint": _joint_distribution(list(measures), cases),
            "cases": len(cases),
        }
    )


def _joint_distribution(names: Sequence[str], cases: Sequence[Mapping[str, float]]) -> Joint | None:
    """The distribution of the figures that all cases have and that vary; None if there are too few cases."""
    chosen = [name for name in names if all(name in case for case in cases)]
    values = np.array([[case[name] for name in chosen] for case in cases])
    deviations = values.std(axis=0)
    varies = deviations > LEAST_DEVIATION
    if not varies.any() or len(cases) < CASES_PER_FIGURE * int(varies.sum()):
        return None
    values, deviations = values[:, varies], deviations[varies]
    means = values.mean(axis=0)
    standardised = (values - means) / deviations
    correlation = np.atleast_2d(standardised.T @ standardised / len(cases))
    precision = np.linalg.inv(correlation + SHRINKAGE * (np.eye(len(means)) - correlation))
    distances = np.sqrt(np.einsum("ni,ij,nj->n", standardised, precision, standardised))
    return Joint(
        names=tuple(name for name, used in zip(chosen, varies, strict=True) if used),
        means=_rounded(means),
        deviations=_rounded(deviations),
        precision=tuple(_rounded(row) for row in precision),
        most=float(f"{JOINT_FACTOR * distances.max():.3g}"),
    )


def _rounded(values: NDArray[np.float64]) -> tuple[float, ...]:
    return tuple(float(f"{value:.5g}") for value in values)


def _review_range(name: str, values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = max(
        MARGIN_OF_WIDTH * (high - low),
        MARGIN_OF_VALUE * max(abs(low), abs(high)),
        MARGIN_OF_SHARES if MEASURES[name].percent else 0.0,
    )
    lowest = low - margin if low < 0 else max(low - margin, 0.0)
    return float(f"{lowest:.3g}"), float(f"{high + margin:.3g}")
