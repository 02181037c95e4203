"""Default thresholds of labels, however a model spells them, and cards that leave them out."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from inference.store.card import ModelCard
from inference.store.thresholds import has_own_thresholds, thresholds_for


@pytest.mark.parametrize(
    ("kind", "label", "limits"),
    [
        ("ct_chest", "Nodule", (0.25, 0.50, 0.70)),
        ("ct_chest", "pulmonary embolism", (0.15, 0.45, 0.65)),
        ("ct_chest", "Pulmonary-Embolism", (0.15, 0.45, 0.65)),
        ("ct_chest", "Emphysema", (0.25, 0.55, 0.75)),
        ("brain_mri", "ischemic_stroke", (0.20, 0.50, 0.70)),
        ("brain_mri", "HEMORRHAGE", (0.15, 0.45, 0.65)),
        ("brain_mri", "Tumor", (0.25, 0.55, 0.75)),
        ("chest_xray", "pneumothorax", (0.10, 0.40, 0.60)),
        ("pneumonia", "PNEUMONIA", (0.15, 0.50, 0.75)),
    ],
)
def test_label_has_the_thresholds_of_the_document(
    kind: str, label: str, limits: tuple[float, float, float]
) -> None:
    found = thresholds_for(kind, label)
    assert (found.low, found.high, found.critical) == limits


def test_only_labels_of_the_table_are_its_own() -> None:
    assert has_own_thresholds("brain_mri", "ischemic stroke")
    assert not has_own_thresholds("brain_mri", "ventricles")
    assert not has_own_thresholds("brain_mri", "default")


def card(kind: str, *labels: dict[str, Any]) -> ModelCard:
    """A card as it is read from its file."""
    content = {
        "name": "a",
        "version": "1",
        "kind": kind,
        "manufacturer": "overread tests",
        "licence": "none",
        "origin": "test",
        "sha256": "0" * 64,
        "input_size": 96,
        "architecture": {"family": "unet_resnet"},
        "labels": labels,
    }
    return ModelCard.model_validate_json(json.dumps(content))


def test_card_without_thresholds_has_those_of_its_kind() -> None:
    own = {"low": 0.1, "high": 0.2, "critical": 0.3}
    read = card("ct_chest", {"name": "pulmonary embolism"}, {"name": "Nodule", "thresholds": own})
    embolism, nodule = (label.as_finding().thresholds for label in read.labels)
    assert embolism == thresholds_for("ct_chest", "Pulmonary_Embolism")
    assert (nodule.low, nodule.high, nodule.critical) == (0.1, 0.2, 0.3)
    assert ModelCard.model_validate_json(read.model_dump_json()) == read


def test_kind_without_defaults_needs_thresholds_in_the_card() -> None:
    with pytest.raises(ValidationError, match="'Nodule' needs thresholds: lung_nodule has no defaults"):
        card("lung_nodule", {"name": "Nodule"})
