"""Ensembles of unlike members: each says what it says alone; what cannot be averaged is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from inference.engines import engine_class
from inference.engines.image import ImageEngine
from inference.errors import ModelInvalid
from inference.findings import Analysis
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import TorchvisionArchitecture
from inference.store.card_parts import Platt
from tests.inference.conftest import WriteRadiograph
from tests.inference.test_engine_contract import SMALL_DENSENET, analyse, radiograph, seeded_model

pytestmark = pytest.mark.engine

TABLES: dict[str, dict[str, Any]] = {
    "densenet": {
        "architecture": SMALL_DENSENET,
        "channels": 1,
        "style": "torchxrayvision",
        "activation": "sigmoid",
        "labels": ("Pneumonia", "Pleural_Thickening"),
    },
    "efficientnet": {
        "architecture": TorchvisionArchitecture(network="efficientnet_b0"),
        "size": 96,
        "labels": ("pleural thickening", "NORMAL", "PNEUMONIA"),
    },
    "softmax": {"size": 96, "labels": ("Normal", "Pleural Thickening", "Pneumonia")},
    "other": {"size": 64, "labels": ("Normal", "Mass", "Pneumonia")},
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Classifiers of the same findings, and one of others."""
    found = ModelStore(tmp_path_factory.mktemp("models"))
    for seed, (name, changes) in enumerate(TABLES.items()):
        seeded_model(found, "image_classifier", name, seed, **changes)
    found.set_calibration("densenet", Platt(slopes=(2.0, 0.5), intercepts=(0.3, -0.1)))
    return found


def load(store: ModelStore, models: Sequence[str], **options: Any) -> ImageEngine:
    settings = EngineSettings(
        name="x",
        kind="image_classifier",
        model=models[0],
        backend="torch",
        options={"ensemble": list(models[1:]), **options} if models[1:] else options,
    )
    engine = engine_class("image_classifier").load(settings, store)
    assert isinstance(engine, ImageEngine)
    return engine


def by_label(analysis: Analysis) -> dict[str, float]:
    return {f.label.name.lower().replace("_", " "): f.calibrated_probability for f in analysis.findings}


@pytest.mark.parametrize("models", [("densenet", "efficientnet"), ("efficientnet", "densenet")])
def test_each_member_says_what_it_says_alone(
    store: ModelStore, write_radiograph: WriteRadiograph, models: Sequence[str]
) -> None:
    path = radiograph(write_radiograph)
    alone = [by_label(analyse(load(store, [name]), path)) for name in models]
    both = analyse(load(store, models, weights=[1, 3]), path)
    assert len(both.findings) == 2
    for finding in both.findings:
        expected = [one[finding.label.name.lower().replace("_", " ")] for one in alone]
        np.testing.assert_allclose(finding.individual_predictions, expected, atol=1e-6)
        assert finding.calibrated_probability == pytest.approx(np.dot(expected, [0.25, 0.75]), abs=1e-6)
        assert finding.ensemble_std == pytest.approx(np.std(expected), abs=1e-6)


def test_maps_of_members_that_see_different_parts_lie_where_each_saw(
    store: ModelStore, write_radiograph: WriteRadiograph
) -> None:
    engine = load(store, ["densenet", "efficientnet"])
    alone = load(store, ["efficientnet"])
    path = radiograph(write_radiograph)  # 300 x 260: the square leaves 20 rows above and below
    (finding, *_) = [f for f in analyse(alone, path).findings if f.label.name == "PNEUMONIA"]
    top = analyse(engine, path).heatmaps
    assert all(heatmap.values[:15].max() > 0 for heatmap in top.values())
    assert all(heatmap.values.max() == pytest.approx(1, abs=0.05) for heatmap in top.values())
    assert finding.heatmap is None or finding.heatmap.values.shape == (300, 260)


def test_negative_classes_are_averaged_apart_from_the_findings(
    store: ModelStore, write_radiograph: WriteRadiograph
) -> None:
    path = radiograph(write_radiograph)
    both = analyse(load(store, ["softmax", "efficientnet"]), path)
    assert both.labels == ("Pleural Thickening", "Pneumonia")
    assert both.absence is not None
    said = [f.calibrated_probability for f in both.findings] + [both.absence.calibrated_probability]
    assert sum(said) == pytest.approx(1)
    assert both.prediction is not None
    assert both.prediction[1] == pytest.approx(max(said))
    assert analyse(load(store, ["densenet", "efficientnet"]), path).prediction is None


def test_models_of_other_findings_are_refused(store: ModelStore) -> None:
    with pytest.raises(ModelInvalid, match="different labels: mass, pleural thickening"):
        load(store, ["densenet", "other"])


def test_what_changes_numbers_changes_the_version(store: ModelStore) -> None:
    versions = [
        load(store, ["softmax"]).model.version,
        load(store, ["softmax", "efficientnet"]).model.version,
        load(store, ["softmax", "efficientnet"], weights=[1, 2]).model.version,
        load(store, ["softmax", "densenet"]).model.version,
        load(store, ["softmax"], tta=True).model.version,
        load(store, ["softmax"], scales=[96, 128]).model.version,
    ]
    assert len(set(versions)) == len(versions)
    assert versions[0] == store.get("softmax").card.identity.version
    assert load(store, ["softmax"], explanation="Saliency").model.version == versions[0]
    assert load(store, ["softmax", "efficientnet"]).model == load(store, ["softmax", "efficientnet"]).model


def test_healthy_class_is_no_finding(store: ModelStore, write_radiograph: WriteRadiograph) -> None:
    analysis = analyse(load(store, ["softmax"]), radiograph(write_radiograph))
    assert analysis.labels == ("Pleural Thickening", "Pneumonia")
    assert set(analysis.heatmaps) <= set(analysis.labels)
    assert analysis.absence is not None and analysis.absence.name == "Normal"
    with pytest.raises(Exception, match="no label 'Normal'"):
        load(store, ["softmax"], thresholds={"Normal": {"low": 0.1, "high": 0.2, "critical": 0.3}})
