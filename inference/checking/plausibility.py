"""Segmented structures that no body can have: of an impossible volume, or not in the part that was scanned.

An implausible structure is taken out of the label maps and the findings; a remark and the advice to review say
so. What is left stands: one wrong structure among a hundred is no reason to withhold the others. Where nothing is
left, the case is skipped with the reason.

References
----------
Masses of organs of adults: ICRP Publication 89 (2002), table 2.8; 1 g is about 1 ml, more of air-filled ones.
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
    """Reference volume of an adult, the largest that is taken, and the regions in which any of it can lie."""

    reference_ml: float
    most_ml: float
    regions: frozenset[str]


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
"""By the names of TotalSegmentator without sides. The largest volumes are generous and ours: 1.5 times the
reference for the brain and more for all others, above the giant organs of case reports (a spleen of 4 l,
polycystic kidneys and livers, a bladder in retention). Regions are wide: an abdomen shows the bases of the
lungs, a large spleen reaches the pelvis."""

_SAME = {"oesophagus": "esophagus", "bladder": "urinary bladder", "thyroid": "thyroid gland", "lungs": "lung"}
_SIDES = re.compile(r"\b(left|right|upper|middle|lower|lobe)\b")
_REGIONS = (
    (re.compile(r"HEAD|BRAIN|SKULL|ORBIT|FACE|IAC|SINUS(ES)?"), frozenset({"head", "neck"})),
    (re.compile(r"CHEST|THORAX|LUNGS?|HEART"), frozenset({"neck", "chest", "abdomen"})),
    (re.compile(r"ABDOMEN|LIVER|KIDNEYS?"), frozenset({"chest", "abdomen", "pelvis"})),
    (re.compile(r"PELVIS"), frozenset({"abdomen", "pelvis"})),
    (re.compile(r"KNEE|ANKLE|FOOT|HAND|WRIST|ELBOW|LEG|EXTREMITY"), frozenset({"limb"})),
)
"""What Body Part Examined says may be seen: the part and what lies next to it. Other values say nothing."""


def organ_of(name: str) -> Organ | None:
    """The organ of a structure's name, whatever its side, lobe and spelling; None for other structures."""
    words = _SIDES.sub(" ", re.sub(r"[_\W]+", " ", name.lower()))
    plain = " ".join(words.split())
    return ORGANS.get(_SAME.get(plain, plain))


def outside(name: str, body_part: str) -> bool:
    """Whether no part of a structure can lie in a body part (Body Part Examined, in upper case)."""
    organ = organ_of(name)
    shown = next((regions for pattern, regions in _REGIONS if pattern.fullmatch(body_part)), None)
    return organ is not None and shown is not None and not organ.regions & shown


def all_outside(names: Sequence[str], body_part: str) -> bool:
    """Whether that is so of every structure of a model that has some."""
    return bool(names) and all(outside(name, body_part) for name in names)


def objection(structure: Structure, body_part: str) -> str | None:
    """Why a structure cannot be, as a sentence; None where it can."""
    if outside(structure.name, body_part):
        return f"{structure.name} cannot lie in the body part {body_part}"
    organ, millilitres = organ_of(structure.name), structure.volume_mm3 / 1000
    if organ is not None and millilitres > organ.most_ml:
        return (
            f"{structure.name} of {millilitres:.0f} ml is larger than any body has ({organ.most_ml:.0f} ml)"
        )
    return None


def without_implausible(analysis: Analysis, body_part: str) -> Analysis:
    """An analysis without the structures that cannot be; a remark and the advice to review name them."""
    if analysis.segmentation is None:
        return analysis
    segmentation = analysis.segmentation
    objections = {s: reason for s in segmentation.structures if (reason := objection(s, body_part))}
    if not objections:
        return analysis
    values = [structure.value for structure in objections]
    labels = np.where(np.isin(segmentation.labels, values), 0, segmentation.labels)
    kept = [bool(label_map.any()) for label_map in labels]
    names = {normalised_name(structure.name) for structure in objections}
    said = "; ".join(objections.values())
    return replace(
        analysis,
        findings=tuple(f for f in analysis.findings if normalised_name(f.label.name) not in names),
        segmentation=replace(
            segmentation,
            images=tuple(i for i, keep in zip(segmentation.images, kept, strict=True) if keep),
            labels=labels[kept].astype(segmentation.labels.dtype),
            structures=tuple(s for s in segmentation.structures if s not in objections),
        )
        if any(kept)
        else None,
        remarks=(*analysis.remarks, f"left out as implausible: {said}"),
        review_advised="; ".join(filter(None, (analysis.review_advised, said))),
    )


def nothing_left(analyses: Sequence[Analysis]) -> str | None:
    """Why analyses have nothing to report: a model that only segments found nothing that can be; None otherwise."""
    if any(analysis.findings or analysis.segmentation for analysis in analyses):
        return None
    advised = "; ".join(filter(None, (analysis.review_advised for analysis in analyses)))
    return advised or "the model found none of its structures"
