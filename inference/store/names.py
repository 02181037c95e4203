"""Names of labels: which spellings are equal, and which names mean that nothing was found."""

from __future__ import annotations

import re

ABSENCES = frozenset({"normal", "healthy", "negative", "none", "background", "nofinding", "notumor"})
"""Normalised names which mean that nothing was found, besides those that start with ``no``."""


def normalised_name(name: str) -> str:
    """A label's name in lower case with single spaces: ``Pulmonary_Embolism`` becomes ``pulmonary embolism``."""
    return " ".join(re.split(r"[\s_-]+", name.strip().lower()))


def is_absence(name: str) -> bool:
    """Whether a label's name means that nothing was found, as ``Normal``, ``NO_FINDING`` or ``no tumor`` do.

    ``No Lung Opacity / Not Normal`` (RSNA's pneumonia challenge) does not mean that.
    """
    normalised = normalised_name(name)
    return normalised in ABSENCES or (normalised.startswith("no ") and " not " not in normalised)
