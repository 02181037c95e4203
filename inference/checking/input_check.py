"""Checks whether a model is for an input, by comparing header and measured figures with the card's expectations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inference.checking.measurement import measures_of_picture, measures_of_volume
from inference.checking.plausibility import all_lie_outside
from inference.errors import ImageUnreadable
from inference.headers import ImageHeader
from inference.reading.files import read_header
from inference.store.measures import MEASURES

if TYPE_CHECKING:
    from inference.checking.measurement import Values
    from inference.store.card import ModelCard
    from inference.store.expects import Expectations, Joint, Span
    from inference.volumes.volume import Volume

HEADER_KEYWORDS = frozenset({"BodyPartExamined", "Modality", "ViewPosition"})


@dataclass(frozen=True, kw_only=True)
class InputCheck:
    """The outcome of comparing an input with what a model expects."""

    refusal: str | None = None
    """Why the input is not for the model."""
    review: str | None = None
    """Why a person should review the result."""
    body_part: str = ""
    """Body Part Examined, in upper case."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """The measured figures of the input, by the names of ``measures.MEASURES``."""

    @classmethod
    def of(
        cls, expects: Expectations | None, figures: Mapping[str, float], body_part: str = ""
    ) -> InputCheck:
        """Compare figures with expectations; without expectations, every input is accepted."""
        if expects is None:
            return cls(body_part=body_part, figures=figures)
        return cls(
            refusal=_all_complaints(expects, figures, refusing=True),
            review=_all_complaints(expects, figures, refusing=False),
            body_part=body_part,
            figures=figures,
        )


def check_volume(card: ModelCard, expects: Expectations | None, volume: Volume) -> InputCheck:
    """Compare a volume with the expectations, and its body part with the structures that the model segments.

    Raises:
        OSError: the header cannot be read now.
    """
    try:
        header = read_header(volume.source.path, HEADER_KEYWORDS)
    except ImageUnreadable as error:
        return InputCheck(refusal=str(error))
    body_part = header.text("BodyPartExamined")
    structures = [structure.name for structure in card.structures]
    if all_lie_outside(structures, body_part):
        return InputCheck(
            refusal=f"nothing that the model segments ({', '.join(structures[:3])}) lies in the body part {body_part}"
        )
    refusal = header_refusal(expects, header)
    if refusal is not None:
        return InputCheck(refusal=refusal)
    return InputCheck.of(expects, measures_of_volume(volume), body_part)


def check_picture(expects: Expectations | None, brightness: Values) -> InputCheck:
    """Check the picture that a network sees: brightness in [0, 1], shape (rows, columns)."""
    return InputCheck.of(expects, measures_of_picture(brightness))


def header_refusal(expects: Expectations | None, header: ImageHeader) -> str | None:
    """Why the model is not for an image, by its header; a missing body part or view is no reason."""
    if expects is None:
        return None
    modality, part, view = (header.text(k) for k in ("Modality", "BodyPartExamined", "ViewPosition"))
    if expects.modalities and modality not in expects.modalities:
        shown_modality = modality or "an unknown modality"
        return f"the model is for {' or '.join(expects.modalities)}, not for {shown_modality}"
    if expects.body_parts and part and not re.fullmatch(expects.body_parts, part, re.IGNORECASE):
        return f"the model is not for the body part {part}"
    if expects.views and view and view not in expects.views:
        return f"the model is for the views {', '.join(expects.views)}, not for {view}"
    return None


def joined(*reasons: str | None) -> str | None:
    """Several reasons as one text, without the empty ones; None if there is none."""
    return "; ".join(reason for reason in reasons if reason) or None


def _all_complaints(expects: Expectations, figures: Mapping[str, float], *, refusing: bool) -> str | None:
    """The figures outside the limits for refusal, or else for review, each group with what it means."""
    by_meaning: dict[str, list[str]] = {}
    unlike = f"unlike the {expects.cases} cases of the model card"
    for name, limits in expects.measures.items():
        complaint = _complaint(name, figures.get(name), limits.refuse if refusing else limits.review)
        if complaint is not None:
            computed = not refusing and expects.cases
            by_meaning.setdefault(unlike if computed else limits.meaning, []).append(complaint)
    if expects.joint is not None and not refusing:
        complaint = _joint_complaint(expects.joint, figures)
        if complaint is not None:
            by_meaning.setdefault(unlike, []).append(complaint)
    return joined(
        *(
            f"{meaning}: {', '.join(complaints)}" if meaning else ", ".join(complaints)
            for meaning, complaints in by_meaning.items()
        )
    )


def _complaint(name: str, value: float | None, span: Span) -> str | None:
    """How far a figure is outside a span; None if it is inside or was not measured."""
    measure = MEASURES[name]
    low, high = span
    if value is not None and low is not None and value < low:
        return f"{measure.words} is {measure.shown(value)}, expected at least {measure.shown(low)}"
    if value is not None and high is not None and value > high:
        return f"{measure.words} is {measure.shown(value)}, expected at most {measure.shown(high)}"
    return None


def _joint_complaint(joint: Joint, figures: Mapping[str, float]) -> str | None:
    """Why the figures are unusual together; None if they are not or if one was not measured."""
    if any(name not in figures for name in joint.names):
        return None
    standardised = (np.array([figures[name] for name in joint.names]) - joint.means) / joint.deviations
    shares = standardised * (np.array(joint.precision) @ standardised)
    distance = float(np.sqrt(max(shares.sum(), 0.0)))
    if distance <= joint.most:
        return None
    words = MEASURES[joint.names[int(shares.argmax())]].words
    return (
        f"the figures together are {distance:.1f} standard deviations from the usual, expected at most "
        f"{joint.most:.1f}, most of it by the {words}"
    )
