"""Whether an input is one that a model is for: what its card expects, against header and measured figures."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from inference.checking.measurement import measures_of_picture, measures_of_volume
from inference.checking.plausibility import all_outside
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
    """``refusal``: why the input is not for the model; ``review``: why a person should look at its result again."""

    refusal: str | None = None
    review: str | None = None
    body_part: str = ""
    """Body Part Examined, in upper case."""
    figures: Mapping[str, float] = field(default_factory=dict)
    """What was measured of the input, by the names of ``measures.MEASURES``."""

    @classmethod
    def of(
        cls, expects: Expectations | None, figures: Mapping[str, float], body_part: str = ""
    ) -> InputCheck:
        """Figures against what is expected; None expects nothing."""
        if expects is None:
            return cls(body_part=body_part, figures=figures)
        return cls(
            refusal=_sentence(expects, figures, refusing=True),
            review=_sentence(expects, figures, refusing=False),
            body_part=body_part,
            figures=figures,
        )


def check_volume(card: ModelCard, expects: Expectations | None, volume: Volume) -> InputCheck:
    """Check a volume against what is expected of it, and against the structures that the card's model segments.

    Raises:
        OSError: the header cannot be read now.
    """
    try:
        header = read_header(volume.source.path, HEADER_KEYWORDS)
    except ImageUnreadable as error:
        return InputCheck(refusal=str(error))
    body_part = header.text("BodyPartExamined")
    structures = [structure.name for structure in card.structures]
    if all_outside(structures, body_part):
        return InputCheck(
            refusal=f"nothing that the model segments ({', '.join(structures[:3])}) lies in the body part {body_part}"
        )
    refusal = header_refusal(expects, header)
    if refusal is not None:
        return InputCheck(refusal=refusal)
    return InputCheck.of(expects, measures_of_volume(volume), body_part)


def check_picture(expects: Expectations | None, brightness: Values) -> InputCheck:
    """Check the picture that a network sees, brightness in [0, 1] of shape (rows, columns)."""
    return InputCheck.of(expects, measures_of_picture(brightness))


def header_refusal(expects: Expectations | None, header: ImageHeader) -> str | None:
    """Why an image is not for the model by its header; attributes that it does not have say nothing."""
    if expects is None:
        return None
    modality, part, view = (header.text(k) for k in ("Modality", "BodyPartExamined", "ViewPosition"))
    if expects.modalities and modality not in expects.modalities:
        named = modality or "an unknown modality"
        return f"the model is for {' or '.join(expects.modalities)}, not for {named}"
    if expects.body_parts and part and not re.fullmatch(expects.body_parts, part, re.IGNORECASE):
        return f"the model is not for the body part {part}"
    if expects.views and view and view not in expects.views:
        return f"the model is for the views {', '.join(expects.views)}, not for {view}"
    return None


def joined(*reasons: str | None) -> str | None:
    """Several reasons as one text; None where there is none."""
    return "; ".join(reason for reason in reasons if reason) or None


def _sentence(expects: Expectations, figures: Mapping[str, float], *, refusing: bool) -> str | None:
    """The figures that are outside of what is taken at all, or of what needs no review, and what that means."""
    outside: dict[str, list[str]] = {}
    unlike = f"unlike the {expects.cases} cases of the model card"
    for name, limits in expects.measures.items():
        complaint = _complaint(name, figures.get(name), limits.refuse if refusing else limits.review)
        if complaint is not None:
            computed = not refusing and expects.cases
            outside.setdefault(unlike if computed else limits.meaning, []).append(complaint)
    if expects.joint is not None and not refusing:
        complaint = _joint_complaint(expects.joint, figures)
        if complaint is not None:
            outside.setdefault(unlike, []).append(complaint)
    return joined(
        *(
            f"{meaning}: {', '.join(complaints)}" if meaning else ", ".join(complaints)
            for meaning, complaints in outside.items()
        )
    )


def _complaint(name: str, value: float | None, span: Span) -> str | None:
    """How a figure leaves a span; None where it does not or could not be measured."""
    measure = MEASURES[name]
    low, high = span
    if value is not None and low is not None and value < low:
        return f"{measure.words} is {measure.shown(value)}, expected at least {measure.shown(low)}"
    if value is not None and high is not None and value > high:
        return f"{measure.words} is {measure.shown(value)}, expected at most {measure.shown(high)}"
    return None


def _joint_complaint(joint: Joint, figures: Mapping[str, float]) -> str | None:
    if any(name not in figures for name in joint.names):
        return None
    away = (np.array([figures[name] for name in joint.names]) - joint.means) / joint.deviations
    shares = away * (np.array(joint.precision) @ away)
    distance = float(np.sqrt(max(shares.sum(), 0.0)))
    if distance <= joint.most:
        return None
    words = MEASURES[joint.names[int(shares.argmax())]].words
    return (
        f"the figures together are {distance:.1f} standard deviations from the usual, expected at most "
        f"{joint.most:.1f}, most of it by the {words}"
    )
