"""A class that means that nothing was found is never a finding, whatever the engine and the activation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from inference.engines import engine_class
from inference.findings import Presence
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.card import ModelCard
from inference.store.names import is_absence
from tests.inference.conftest import WriteRadiograph
from tests.inference.test_engine_contract import MODELS, analyse, radiograph, seeded_model
from tests.inference.test_thresholds import card

pytestmark = pytest.mark.engine


@pytest.mark.parametrize(
    "name", ["NORMAL", "No Finding", "no_tumor", "notumor", "None", "Healthy", "negative", "background"]
)
def test_name_of_an_absence_is_known(name: str) -> None:
    assert is_absence(name)


@pytest.mark.parametrize("name", ["Pneumonia", "Abnormal", "Nodule", "No Lung Opacity / Not Normal", ""])
def test_name_of_a_finding_is_no_absence(name: str) -> None:
    assert not is_absence(name)


def with_negative(name: str, *labels: str) -> ModelCard:
    read = card("ct_chest", *({"name": label} for label in labels))
    return ModelCard.model_validate({**read.model_dump(), "negative_class": name})


def test_negative_class_of_a_card_is_no_finding() -> None:
    read = with_negative("Clear", "Clear", "Nodule")
    assert read.negative == 0
    assert [label.name for label in read.reported.values()] == ["Nodule"]


def test_negative_class_has_to_be_a_label() -> None:
    with pytest.raises(ValidationError, match="'Clear' is none of the labels"):
        with_negative("Clear", "Nodule")


@pytest.mark.parametrize("negative", ["", "Normal"])
def test_card_with_two_classes_for_nothing_found_is_refused(negative: str) -> None:
    content = card("ct_chest", {"name": "Nodule"}, {"name": "Normal"}, {"name": "a"}).model_dump()
    content["negative_class"] = negative
    content["labels"][2]["name"] = "No Finding"
    with pytest.raises(ValidationError, match="Normal, No Finding all mean that nothing was found"):
        ModelCard.model_validate(content)


def test_card_needs_a_label_that_can_be_a_finding() -> None:
    with pytest.raises(ValidationError, match="needs a label that can be a finding"):
        card("ct_chest", {"name": "Normal"}).model_copy()


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_no_image_engine_shows_it(
    tmp_path: Path, write_radiograph: WriteRadiograph, kind: str, activation: str
) -> None:
    if kind == "concept_prototype" and activation == "softmax":
        pytest.skip("concept prototypes are judged each by itself")
    labels = ("No_Finding", "Pneumonia", "Mass")
    store = seeded_model(ModelStore(tmp_path / "models"), kind, activation=activation, labels=labels)
    # Where nothing reaches its threshold the most probable class would be shown, and that may be the negative one.
    never = {"low": 1.0, "high": 1.0, "critical": 1.0}
    options: dict[str, Any] = {"thresholds": {"Pneumonia": never, "Mass": never}}
    settings = EngineSettings(
        name="x", kind=kind, model="seeded", device="cpu", backend="torch", options=options
    )
    analysis = analyse(engine_class(kind).load(settings, store), radiograph(write_radiograph))
    assert "No_Finding" not in {*analysis.labels, *analysis.heatmaps}
    assert analysis.absence is not None and analysis.absence.name == "No_Finding"
    assert (analysis.prediction is None) == (activation == "sigmoid")
    if kind != "concept_prototype":
        assert all(finding.presence is not Presence.PRESENT for finding in analysis.findings)
        shown = max(analysis.findings, key=lambda finding: finding.calibrated_probability)
        assert list(analysis.heatmaps) == [shown.label.name]
