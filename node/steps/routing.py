"""Routing rules: whether a rule takes a series, and the condition that decided."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydicom.uid import UID

from db.records import AttributeValue
from node.configuration.tables import (
    INSTANCES_KEYWORD,
    AbsentCondition,
    Condition,
    RangeCondition,
    RouteTable,
)

PROJECTION_MODALITIES = frozenset({"CR", "DX", "MG", "PX", "IO", "RG", "XA", "RF"})
POST_PROCESSED = frozenset(
    {"MPR", "MIP", "MINIP", "CPR", "REFORMATTED", "PROJECTION IMAGE", "VOLUME RENDERING", "SUBTRACTION"}
)
SCREEN_WORDS = re.compile(
    r"dose (report|summary|info)|patient protocol|exam(ination)? summary|screen ?save", re.I
)


@dataclass(frozen=True, kw_only=True)
class Instance:
    """A received instance as routing rules see it."""

    sop_instance_uid: str
    sop_class_uid: str
    attributes: Mapping[str, AttributeValue]


@dataclass(frozen=True, kw_only=True)
class Exclusion:
    """Why an instance is normally no input. A rule with a condition on a ``lifted_by`` keyword still gets it."""

    reason: str
    lifted_by: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Whether a rule takes a series, the condition that decided, and the instances that it takes."""

    route: str
    takes: bool
    reason: str
    instances: tuple[Instance, ...] = ()


def values_of(attributes: Mapping[str, AttributeValue], keyword: str) -> list[str]:
    """The values of an attribute; none if it is absent or empty."""
    value = attributes.get(keyword)
    values = value if isinstance(value, list) else [value]
    return [v.strip() for v in values if v is not None and v.strip()]


def exclusion(instance: Instance) -> Exclusion | None:
    r"""Why this instance is no input unless a rule asks for it; None for a normal image.

    Image Type ``DERIVED`` alone does not exclude it: X-rays for presentation are ``DERIVED\PRIMARY``, and lossy
    compression alone makes an image derived (PS3.3 section C.7.6.1.1.2). It has to be ``SECONDARY`` too, or name a
    post-processing.
    """
    by_class = frozenset({"SOPClassUID", "Modality"})
    name = UID(instance.sop_class_uid).name
    for words, what in (
        (("Presentation State",), "a presentation state"),
        (
            (" SR ", "Structured Report", "Comprehensive", "Key Object", "Radiation Dose", "CAD SR"),
            "a report",
        ),
        (("Encapsulated", "Waveform", "Segmentation", "RT ", "Raw Data", "Registration"), "no image"),
    ):
        if any(word in f" {name} " for word in words) and "Image Storage" not in name:
            return Exclusion(reason=f"{what} ({name})", lifted_by=by_class)
    attributes = instance.attributes
    image_type = [value.upper() for value in values_of(attributes, "ImageType")]
    modality = (values_of(attributes, "Modality") or [""])[0].upper()
    if "LOCALIZER" in image_type or "SCOUT" in image_type:
        return Exclusion(reason="a localizer (Image Type)", lifted_by=frozenset({"ImageType"}))
    descriptions = " ".join(
        value for keyword in ("SeriesDescription", "ProtocolName") for value in values_of(attributes, keyword)
    )
    if SCREEN_WORDS.search(descriptions) or SCREEN_WORDS.search(" ".join(image_type)):
        return Exclusion(
            reason="a dose or examination summary screen",
            lifted_by=frozenset({"ImageType", "SeriesDescription"}),
        )
    secondary_capture = "Secondary Capture" in name
    if secondary_capture and modality not in PROJECTION_MODALITIES:
        return Exclusion(reason=f"a secondary capture ({name})", lifted_by=by_class)
    derived = len(image_type) > 1 and image_type[0] == "DERIVED"
    if derived and (image_type[1] == "SECONDARY" or POST_PROCESSED.intersection(image_type[2:])):
        return Exclusion(reason="a derived image (Image Type)", lifted_by=frozenset({"ImageType"}))
    return None


def describe(keyword: str, condition: Condition) -> str:
    """A condition in words."""
    if isinstance(condition, str):
        return f'{keyword} = "{condition}"'
    if isinstance(condition, AbsentCondition):
        return f"{keyword} absent"
    if isinstance(condition, RangeCondition):
        low = "" if condition.min is None else f"{condition.min:g} <= "
        high = "" if condition.max is None else f" <= {condition.max:g}"
        return f"{low}{keyword}{high}"
    return f"{keyword} one of {', '.join(condition)}"


def holds(condition: Condition, values: Sequence[str]) -> bool:
    """Whether at least one value of an attribute satisfies a condition.

    A regular expression is also tried on all values joined by backslashes.
    """
    if isinstance(condition, AbsentCondition):
        return not values
    if isinstance(condition, str):
        whole = ["\\".join(values)] if len(values) > 1 else []
        return any(re.fullmatch(condition, value, re.IGNORECASE) for value in [*values, *whole])
    if isinstance(condition, RangeCondition):
        return any(_in_range(condition, value) for value in values)
    return any(value in condition for value in values)


def _in_range(condition: RangeCondition, text: str) -> bool:
    try:
        number = float(text)
    except ValueError:
        return False
    above = condition.min is None or number >= condition.min
    return above and (condition.max is None or number <= condition.max)


def verdict_of(route: RouteTable, series: Sequence[Instance]) -> Verdict:
    """The verdict of one rule on a series. Conditions are checked on its first image by Instance Number."""
    conditioned = frozenset(route.match)
    excluded = {instance.sop_instance_uid: exclusion(instance) for instance in series}
    taken = tuple(
        instance
        for instance in ordered(series)
        if (why_not := excluded[instance.sop_instance_uid]) is None or why_not.lifted_by & conditioned
    )
    first = (taken or ordered(series))[0]
    for keyword, condition in route.match.items():
        if keyword == INSTANCES_KEYWORD:
            values = [str(len(series))]
        elif keyword == "SOPClassUID":
            values = [first.sop_class_uid]
        else:
            values = values_of(first.attributes, keyword)
        if not holds(condition, values):
            found = "\\".join(values) if values else "empty"
            return Verdict(
                route=route.name,
                takes=False,
                reason=f"{describe(keyword, condition)} does not hold: it is {found}",
            )
    if not taken:
        reasons = sorted({why.reason for why in excluded.values() if why is not None})
        return Verdict(route=route.name, takes=False, reason="is " + " and ".join(reasons))
    conditions = " and ".join(describe(k, c) for k, c in route.match.items()) or "no conditions"
    return Verdict(route=route.name, takes=True, reason=f"{conditions} holds", instances=taken)


def ordered(series: Sequence[Instance]) -> list[Instance]:
    """The instances by Instance Number, then by UID. Those without a number come last."""

    def key(instance: Instance) -> tuple[float, str]:
        values = values_of(instance.attributes, "InstanceNumber")
        try:
            return float(values[0]), instance.sop_instance_uid
        except (IndexError, ValueError):
            return float("inf"), instance.sop_instance_uid

    return sorted(series, key=key)
