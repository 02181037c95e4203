"""Routing rules: each kind of condition, what is no input, and what the verdict says."""

from __future__ import annotations

import pytest

from db.records import AttributeValue
from node.configuration.tables import AbsentCondition, Condition, RangeCondition, RouteTable
from node.steps.routing import Instance, exclusion, holds, verdict_of

CT = "1.2.840.10008.5.1.4.1.1.2"
CR = "1.2.840.10008.5.1.4.1.1.1"
SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
PRESENTATION_STATE = "1.2.840.10008.5.1.4.1.1.11.1"
DOSE_REPORT = "1.2.840.10008.5.1.4.1.1.88.67"


def instance(sop_class: str = CR, uid: str = "1.2.3", **attributes: AttributeValue) -> Instance:
    return Instance(sop_instance_uid=uid, sop_class_uid=sop_class, attributes=attributes)


def route(**match: Condition) -> RouteTable:
    return RouteTable(name="rule", match=match, engines=("cxr",), destinations=("pacs",))


@pytest.mark.parametrize(
    ("condition", "values", "expected"),
    [
        (("CR", "DX"), ["DX"], True),
        (("CR", "DX"), ["CT"], False),
        ("CHEST|THORAX", ["chest"], True),
        ("CHEST|THORAX", ["CHEST PA"], False),
        ("CHEST.*", ["ABDOMEN", "CHEST PA"], True),
        (r"ORIGINAL\\PRIMARY.*", ["ORIGINAL", "PRIMARY", "AXIAL"], True),
        (RangeCondition(min=1, max=3), ["3.0"], True),
        (RangeCondition(min=1, max=3), ["3.5"], False),
        (RangeCondition(min=1), ["many"], False),
        (RangeCondition(min=1), [], False),
        (AbsentCondition(absent=True), [], True),
        (AbsentCondition(absent=True), ["x"], False),
    ],
)
def test_condition(condition: Condition, values: list[str], expected: bool) -> None:
    assert holds(condition, values) is expected


def test_verdict_names_the_condition_that_decided() -> None:
    verdict = verdict_of(
        route(Modality=("CR", "DX"), BodyPartExamined="CHEST"),
        [instance(Modality="CR", BodyPartExamined="HIP")],
    )
    assert not verdict.takes
    assert verdict.reason == 'BodyPartExamined = "CHEST" does not hold: it is HIP'


def test_first_image_by_number_speaks_for_the_series() -> None:
    series = [
        instance(uid="1.1", InstanceNumber="2", BodyPartExamined="HIP"),
        instance(uid="1.2", InstanceNumber="1", BodyPartExamined="CHEST"),
    ]
    assert verdict_of(route(BodyPartExamined="CHEST"), series).takes


def test_instances_counts_the_series() -> None:
    series = [instance(uid=f"1.{n}", sop_class=CT, Modality="CT") for n in range(30)]
    assert verdict_of(route(instances=RangeCondition(min=20)), series).takes
    assert not verdict_of(route(instances=RangeCondition(min=31)), series).takes


@pytest.mark.parametrize(
    ("item", "word"),
    [
        (instance(CT, Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), "localizer"),
        (instance(CT, Modality="CT", ImageType=["DERIVED", "SECONDARY", "AXIAL"]), "derived"),
        (instance(CT, Modality="CT", ImageType=["DERIVED", "PRIMARY", "MPR"]), "derived"),
        (instance(SECONDARY_CAPTURE, Modality="CT"), "secondary capture"),
        (instance(CT, Modality="CT", SeriesDescription="Dose Report"), "dose"),
        (instance(CT, Modality="CT", SeriesDescription="Patient Protocol"), "summary"),
        (instance(PRESENTATION_STATE, Modality="PR"), "presentation state"),
        (instance(DOSE_REPORT, Modality="SR"), "report"),
    ],
)
def test_no_input_by_itself(item: Instance, word: str) -> None:
    why = exclusion(item)
    assert why is not None
    assert word in why.reason
    assert not verdict_of(route(), [item]).takes


@pytest.mark.parametrize(
    "item",
    [
        instance(CR, Modality="CR", ImageType=["DERIVED", "PRIMARY"]),
        instance(SECONDARY_CAPTURE, Modality="CR"),
        instance(CT, Modality="CT", ImageType=["DERIVED", "PRIMARY", "AXIAL"]),
        instance(CT, Modality="CT"),
    ],
)
def test_normal_images_are_input(item: Instance) -> None:
    assert exclusion(item) is None


def test_a_rule_can_ask_for_what_is_no_input() -> None:
    localizer = instance(CT, Modality="CT", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert verdict_of(route(ImageType=".*LOCALIZER.*"), [localizer]).takes
