"""Segmented structures that cannot be right: of an impossible volume, or not in the part that was scanned.

An implausible structure is removed from the label maps and the findings; a remark and the advice to review say so.
The other structures stay, because one wrong structure among a hundred is no reason to withhold them. If nothing is
left, the case is skipped with the reason.

References: ICRP Publication 89 (2002), table 2.8, for the masses of adults' organs; 1 g is about 1 ml, and more in
organs filled with air.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from inference.findings import Analysis, Structure
from inference.store.names import normalised_name


@dataclass(frozen=True, kw_only=True)
class Organ:
    """The plausible size and place of an organ."""

    reference_ml: float
    """Volume in an adult."""
    most_ml: float
    """Largest plausible volume."""
    regions: frozenset[str]
    """Regions of the body in which any part of it can lie."""


def _organ(reference_ml: float, most_ml: float, regions: str) -> Organ:
    return Organ(reference_ml=reference_ml, most_ml=most_ml, regions=frozenset(regions.split()))


ORGANS: dict[str, Organ] = {
    "adrenal gland": _organ(7, 2000, "abdomen"),
    "aorta": _organ(300, 3000, "chest abdomen pelvis"),
    "brain": _organ(1450, 2500, "head neck"),
    "colon": _organ(600, 15000, "chest abdomen pelvis"),
    "duodenum": _organ(100, 2000, "abdomen pelvis"),
    "esophagus": _organ(40, 1500, "neck chest abdomen"),
    "gallbladder": _organ(68, 2000, "abdomen"),
    "heart": _organ(840, 4000, "chest abdomen"),
    "kidney": _organ(155, 4000, "abdomen pelvis"),
    "liver": _organ(1800, 10000, "chest abdomen pelvis"),
    "lung": _organ(3500, 7000, "chest abdomen"),
    "pancreas": _organ(140, 2000, "abdomen pelvis"),
    "prostate": _organ(17, 1000, "pelvis abdomen"),
    "small bowel": _organ(1000, 15000, "chest abdomen pelvis"),
    "spleen": _organ(150, 4000, "chest abdomen pelvis"),
    "stomach": _organ(400, 6000, "chest abdomen pelvis"),
    "thymus": _organ(25, 2000, "neck chest"),
    "thyroid gland": _organ(20, 1500, "neck chest"),
    "trachea": _organ(50, 300, "neck chest"),
    "urinary bladder": _organ(250, 5000, "abdomen pelvis"),
}
"""Organs by TotalSegmentator's names without sides. The largest volumes are our own and generous, at least 1.5 times
the reference and above the giant organs of case reports (a spleen of 4 l, polycystic kidneys and livers, a bladder in
retention). The regions are wide: an abdomen shows the bases of the lungs, and a large spleen reaches the pelvis."""

_SYNONYMS = {
    "oesophagus": "esophagus",
    "bladder": "urinary bladder",
    "thyroid": "thyroid gland",
    "lungs": "lung",
}
_SIDES = re.compile(r"\b(left|right|upper|middle|lower|lobe)\b")
_REGIONS = (
    (re.compile(r"HEAD|BRAIN|SKULL|ORBIT|FACE|IAC|SINUS(ES)?"), frozenset({"head", "neck"})),
    (re.compile(r"CHEST|THORAX|LUNGS?|HEART"), frozenset({"neck", "chest", "abdomen"})),
    (re.compile(r"ABDOMEN|LIVER|KIDNEYS?"), frozenset({"chest", "abdomen", "pelvis"})),
    (re.compile(r"PELVIS"), frozenset({"abdomen", "pelvis"})),
    (re.compile(r"KNEE|ANKLE|FOOT|HAND|WRIST|ELBOW|LEG|EXTREMITY"), frozenset({"limb"})),
)
"""The regions that may be seen for a Body Part Examined: the part and what lies next to it. Other values imply
nothing."""


def organ_of(name: str) -> Organ | None:
    """The organ that a structure's name means, ignoring side, lobe and spelling; None for other structures."""
    words = _SIDES.sub(" ", re.sub(r"[_\W]+", " ", name.lower()))
    plain = " ".join(words.split())
    return ORGANS.get(_SYNONYMS.get(plain, plain))


def lies_outside(name: str, body_part: str) -> bool:
    """Whether no part of a structure can lie in a body part (Body Part Examined, in upper case)."""
    organ = organ_of(name)
    visible = next((regions for pattern, regions in _REGIONS if pattern.fullmatch(body_part)), None)
    return organ is not None and visible is not None and not organ.regions & visible


def all_lie_outside(names: Sequence[str], body_part: str) -> bool:
    """Whether every structure lies outside a body part; False if there are no structures."""
    return bool(names) and all(lies_outside(name, body_part) for name in names)


def implausibility_of(structure: Structure, body_part: str) -> str | None:
    """Why a structure cannot be right, as a sentence; None if it can."""
    if lies_outside(structure.name, body_part):
        return f"{structure.name} cannot lie in the body part {body_part}"
    organ, millilitres = organ_of(structure.name), structure.volume_mm3 / 1000
    if organ is not None and millilitres > organ.most_ml:
        return (
            f"{structure.name} of {millilitres:.0f} ml is larger than any body has ({organ.most_ml:.0f} ml)"
        )
    return None


def without_implausible(analysis: Analysis, body_part: str) -> Analysis:
    """An analysis without its implausible structures; a remark and the advice to review name them."""
    if analysis.segmentation is None:
        return analysis
    segmentation = analysis.segmentation
    implausible = {s: reason for s in segmentation.structures if (reason := implausibility_of(s, body_part))}
    if not implausible:
        return analysis
    values = [structure.value for structure in implausible]
    labels = np.where(np.isin(segmentation.labels, values), 0, segmentation.labels)
    nonempty = [bool(label_map.any()) for label_map in labels]
    names = {normalised_name(structure.name) for structure in implausible}
    reasons = "; ".join(implausible.values())
    return replace(
        analysis,
        findings=tuple(f for f in analysis.findings if normalised_name(f.label.name) not in names),
        segmentation=replace(
            segmentation,
            images=tuple(i for i, keep in zip(segmentation.images, nonempty, strict=True) if keep),
            labels=labels[nonempty].astype(segmentation.labels.dtype),
            structures=tuple(s for s in segmentation.structures if s not in implausible),
        )
        if any(nonempty)
        else None,
        remarks=(*analysis.remarks, f"left out as implausible: {reasons}"),
        review_advised="; ".join(filter(None, (analysis.review_advised, reasons))),
    )


def reason_nothing_left(analyses: Sequence[Analysis]) -> str | None:
    """Why there is nothing to report: no analysis has a finding or a plausible structure; None if one has."""
    if any(analysis.findings or analysis.segmentation for analysis in analyses):
        return None
    advised = "; ".join(filter(None, (analysis.review_advised for analysis in analyses)))
    return advised or "the model found none of its structures"
