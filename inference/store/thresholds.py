"""Default thresholds on calibrated probabilities, by engine kind and label.

They hold for labels without thresholds in their model card.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from types import MappingProxyType

from inference.errors import EngineMisconfigured
from inference.findings import Label, Thresholds
from inference.store.names import normalised_name

_DEFAULT = "default"

THRESHOLDS: Mapping[str, Mapping[str, Thresholds]] = MappingProxyType(
    {
        "chest_xray": MappingProxyType(
            {
                "Pneumonia": Thresholds(low=0.15, high=0.50, critical=0.75),
                "Pneumothorax": Thresholds(low=0.10, high=0.40, critical=0.60),
                "Cardiomegaly": Thresholds(low=0.20, high=0.55, critical=0.80),
                _DEFAULT: Thresholds(low=0.20, high=0.50, critical=0.75),
            }
        ),
        "ct_chest": MappingProxyType(
            {
                "Nodule": Thresholds(low=0.25, high=0.50, critical=0.70),
                "Pulmonary_Embolism": Thresholds(low=0.15, high=0.45, critical=0.65),
                _DEFAULT: Thresholds(low=0.25, high=0.55, critical=0.75),
            }
        ),
        "mri_brain": MappingProxyType(
            {
                "Ischemic_Stroke": Thresholds(low=0.20, high=0.50, critical=0.70),
                "Hemorrhage": Thresholds(low=0.15, high=0.45, critical=0.65),
                _DEFAULT: Thresholds(low=0.25, high=0.55, critical=0.75),
            }
        ),
    }
)
"""Thresholds by modality and label, from "Models and Inference Strategy", section 6.2; ``default`` holds for every
other label."""

_TABLES = {
    "chest_xray": "chest_xray",
    "pneumonia": "chest_xray",
    "concept_prototype": "chest_xray",
    "ct_chest": "ct_chest",
    "brain_mri": "mri_brain",
}
"""Key of ``THRESHOLDS`` for each engine kind."""


def thresholds_for(kind: str, label: str) -> Thresholds:
    """The default thresholds of a label, whatever its spelling (``names.normalised_name``).

    Raises:
        KeyError: the engine kind has no default thresholds.
    """
    table = THRESHOLDS[_TABLES[kind]]
    return next(
        (limits for name, limits in table.items() if normalised_name(name) == normalised_name(label)),
        table[_DEFAULT],
    )


def has_own_thresholds(kind: str, label: str) -> bool:
    """Whether the table of an engine kind names a label, whatever its spelling."""
    return normalised_name(label) in {
        normalised_name(name) for name in THRESHOLDS[_TABLES[kind]] if name != _DEFAULT
    }


def with_thresholds(labels: Sequence[Label], overridden: Mapping[str, Thresholds]) -> list[Label]:
    """The labels of a model, with thresholds replaced.

    Args:
        labels: the labels.
        overridden: the new thresholds by names of labels, from the settings.

    Raises:
        EngineMisconfigured: ``overridden`` names a label that the model does not have.
    """
    names = [label.name for label in labels]
    for name in overridden:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(names) or 'none'}."
            raise EngineMisconfigured(f"thresholds: the model has no label {name!r}; {hint}")
    return [
        replace(label, thresholds=overridden[label.name]) if label.name in overridden else label
        for label in labels
    ]
