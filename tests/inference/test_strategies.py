"""Aggregators, ensembles, augmentation and calibration against plain NumPy and scikit-learn."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from inference.engines import engine_class
from inference.engines.image import ImageEngine
from inference.errors import EngineMisconfigured
from inference.findings import Refusal
from inference.images.preprocessing import InputForm
from inference.networks.aggregation import (
    MEANS,
    POOLS,
    AttentionPool,
    LstmAggregator,
    TransformerAggregator,
    neighbouring_slices,
)
from inference.offline.calibration_trial import try_calibration
from inference.running.calibration import (
    calibrate,
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    quality_of,
    sigmoid,
    softmax,
)
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.card_parts import Platt, Temperature
from tests.inference.conftest import WriteRadiograph
from tests.inference.test_engine_contract import analyse, radiograph, seeded_model

pytestmark = pytest.mark.engine


@pytest.fixture
def predictions() -> np.ndarray:
    return np.random.default_rng(1).random((20, 3))


def test_pools_are_their_formulas(predictions: np.ndarray) -> None:
    logits = torch.from_numpy(np.log(predictions / (1 - predictions)))
    found = {name: pool(logits).numpy() for name, pool in POOLS.items()}
    np.testing.assert_allclose(sigmoid(found["max"]), [max(column) for column in predictions.T])
    product = np.ones(3)
    for row in predictions:
        product *= 1 - row
    np.testing.assert_allclose(sigmoid(found["noisy_or"]), 1 - product)


def test_means_are_of_what_they_say(predictions: np.ndarray) -> None:
    weights = np.random.default_rng(3).random((20, 1))
    weights /= weights.sum()
    logits = np.log(predictions / (1 - predictions))
    found = {
        name: mean(torch.from_numpy(logits), torch.from_numpy(weights)).numpy()
        for name, mean in MEANS.items()
    }
    np.testing.assert_allclose(found["logits"], (logits * weights).sum(axis=0))
    np.testing.assert_allclose(sigmoid(found["sigmoid"]), (predictions * weights).sum(axis=0))
    expected = (softmax(logits) * weights).sum(axis=0)
    np.testing.assert_allclose(softmax(found["softmax"][None])[0], expected)


def test_mean_of_probabilities_keeps_the_digits_of_sure_slices() -> None:
    logits = torch.tensor([[40.0], [60.0]])
    found = MEANS["sigmoid"](logits, torch.full((2, 1), 0.5))
    assert found.item() == pytest.approx(40 + np.log(2), abs=1e-4)


def test_attention_is_a_softmax_over_slices() -> None:
    torch.manual_seed(1)
    pool = AttentionPool(features=16, hidden=8).double()
    features = np.random.default_rng(2).normal(size=(20, 16))
    with torch.no_grad():
        weights = pool(torch.from_numpy(features))[:, 0]
    first, last = pool.attention[0], pool.attention[2]
    assert isinstance(first, torch.nn.Linear) and isinstance(last, torch.nn.Linear)
    hidden = np.tanh(features @ first.weight.detach().numpy().T + first.bias.detach().numpy())
    scores = (hidden @ last.weight.detach().numpy().T + last.bias.detach().numpy())[:, 0]
    expected = np.exp(scores - scores.max())
    expected /= expected.sum()
    np.testing.assert_allclose(weights.numpy(), expected)


@pytest.mark.parametrize("kind", [LstmAggregator, TransformerAggregator])
def test_sequence_aggregators_depend_on_the_order_of_slices(kind: type[torch.nn.Module]) -> None:
    torch.manual_seed(1)
    aggregator = kind(16, 3).eval()
    features = torch.randn(12, 16)
    with torch.no_grad():
        forward, backward = aggregator(features), aggregator(features.flip(0))
    assert forward.shape == (3,)
    assert not torch.allclose(forward, backward)


@pytest.mark.parametrize(
    ("slices", "stacks"),
    [
        (1, [[0, 0, 0]]),
        (2, [[0, 1, 1], [0, 1, 1]]),
        (4, [[0, 1, 1], [0, 1, 2], [1, 2, 3], [2, 3, 3]]),
    ],
)
def test_neighbouring_slices_repeat_the_last_one(slices: int, stacks: list[list[int]]) -> None:
    volume = np.arange(slices, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    found = neighbouring_slices(volume)
    assert found[:, :, 0, 0].tolist() == stacks
    chosen = [slices - 1, 0]
    np.testing.assert_allclose(neighbouring_slices(volume, chosen), found[chosen])


def load(store: ModelStore, **options: Any) -> ImageEngine:
    settings = EngineSettings(name="x", kind="chest_xray", model="a", backend="torch", options=options)
    engine = engine_class("chest_xray").load(settings, store)
    assert isinstance(engine, ImageEngine)
    return engine


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ModelStore:
    """Two seeded chest X-ray models of the same labels."""
    found = ModelStore(tmp_path_factory.mktemp("models"))
    seeded_model(found, "chest_xray", "a", seed=1)
    seeded_model(found, "chest_xray", "b", seed=2)
    return found


def test_ensemble_is_the_weighted_mean_and_keeps_every_member(
    store: ModelStore, write_radiograph: WriteRadiograph
) -> None:
    path = radiograph(write_radiograph)
    one = analyse(load(store), path)
    settings = EngineSettings(name="x", kind="chest_xray", model="b", backend="torch")
    other = analyse(engine_class("chest_xray").load(settings, store), path)
    both = analyse(load(store, ensemble=["b"], weights=[3, 1]), path)
    assert both.ensemble_size == 2
    for finding, first, second in zip(both.findings, one.findings, other.findings, strict=True):
        members = np.array([first.probability, second.probability])
        np.testing.assert_allclose(finding.individual_predictions, members, atol=1e-6)
        assert finding.probability == pytest.approx(members @ [0.75, 0.25], abs=1e-6)
        assert finding.ensemble_std == pytest.approx(members.std(), abs=1e-6)


def test_augmentation_is_the_mean_over_its_views(
    store: ModelStore, write_radiograph: WriteRadiograph
) -> None:
    path = radiograph(write_radiograph)
    engine = load(store)
    (case,) = engine.prepare([path])
    assert not isinstance(case, Refusal)
    brightness = (case.inputs[InputForm(size=224)] / 1024 + 1) / 2
    views = [brightness, brightness[..., ::-1], np.minimum(brightness * 1.1, 1), brightness * 0.9]
    expected = np.stack(
        [
            sigmoid(
                engine.members[0].classifier.classify(((2 * v - 1) * 1024).astype(np.float32)[None]).logits
            )[0]
            for v in views
        ]
    )
    analysis = analyse(load(store, tta=True), path)
    assert analysis.tta_applied
    np.testing.assert_allclose([f.probability for f in analysis.findings], expected.mean(axis=0), atol=1e-5)
    deviations = np.array([f.ensemble_std for f in analysis.findings], dtype=float)
    np.testing.assert_allclose(deviations, expected.std(axis=0), atol=1e-5)


def test_flips_are_undone_on_heat_maps_before_they_are_averaged(store: ModelStore) -> None:
    engine = load(store, tta=True)
    random = np.random.default_rng(1)
    brightness = random.random((1, 1, 224, 224), dtype=np.float32)
    classifier = engine.members[0].classifier
    views = [brightness, brightness[..., ::-1], np.minimum(brightness * 1.1, 1), brightness * 0.9]
    maps = [
        classifier.explain(classifier.classify(((2 * v - 1) * 1024).astype(np.float32)), [(0, 0)])[0]
        for v in views
    ]
    expected = (maps[0] + maps[1][:, ::-1] + maps[2] + maps[3]) / 4
    images = (2 * brightness - 1) * 1024
    (ours,) = engine._predict({InputForm(size=224): images}).explain([(0, 0)], "Grad-CAM", [(224, 224)])
    np.testing.assert_allclose(ours.values, expected / expected.max(), atol=1e-3)


def test_scales_are_averaged(store: ModelStore, write_radiograph: WriteRadiograph) -> None:
    path = radiograph(write_radiograph)
    analysis = analyse(load(store, scales=[192, 224]), path)
    assert analysis.ensemble_size == 2
    alone = analyse(load(store), path)
    assert analysis.findings[0].individual_predictions[1] == pytest.approx(
        alone.findings[0].probability, abs=1e-6
    )


def test_thresholds_can_be_set_by_the_configuration(
    store: ModelStore, write_radiograph: WriteRadiograph
) -> None:
    limits = {"low": 0.0, "high": 0.0, "critical": 0.0}
    analysis = analyse(load(store, thresholds={"Mass": limits}), radiograph(write_radiograph))
    assert analysis.findings[1].severity == "critical"
    with pytest.raises(EngineMisconfigured, match="Mass"):
        load(store, thresholds={"Mass": {"low": 0.9, "high": 0.1, "critical": 0.2}})


@pytest.fixture
def labelled() -> tuple[np.ndarray, np.ndarray]:
    """Logits that are too sure by a factor of three, and what was so."""
    random = np.random.default_rng(7)
    scores = random.normal(0, 1.5, (3000, 2))
    truth = (random.random((3000, 2)) < sigmoid(scores)).astype(np.float64)
    return scores * 3, truth


def test_temperature_finds_the_factor(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = labelled
    fitted = fit_temperature(logits, truth, "sigmoid")
    assert fitted.temperature == pytest.approx(3, rel=0.1)
    before = quality_of(sigmoid(logits), truth)
    after = quality_of(calibrate(fitted, logits, sigmoid(logits), "sigmoid"), truth)
    assert after.expected_calibration_error < before.expected_calibration_error / 2
    assert after.log_loss < before.log_loss
    assert after.brier_score < before.brier_score


def test_platt_equals_scikit_learn(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = labelled
    fitted = fit_platt(logits, sigmoid(logits), truth, "sigmoid")
    ours = calibrate(fitted, logits, sigmoid(logits), "sigmoid")
    for index in range(2):
        reference = LogisticRegression(C=np.inf, tol=1e-8).fit(logits[:, index : index + 1], truth[:, index])
        np.testing.assert_allclose(
            ours[:, index], reference.predict_proba(logits[:, index : index + 1])[:, 1], atol=1e-3
        )


def test_isotonic_equals_scikit_learn(labelled: tuple[np.ndarray, np.ndarray]) -> None:
    logits, truth = labelled
    probabilities = sigmoid(logits)
    fitted = fit_isotonic(probabilities, truth)
    ours = calibrate(fitted, logits, probabilities, "sigmoid")
    for index in range(2):
        reference = IsotonicRegression(out_of_bounds="clip").fit(probabilities[:, index], truth[:, index])
        np.testing.assert_allclose(ours[:, index], reference.predict(probabilities[:, index]), atol=1e-9)


def test_temperature_acts_before_the_softmax() -> None:
    logits = np.array([[2.0, 0.0, -1.0]])
    calibrated = calibrate(Temperature(temperature=2.0), logits, softmax(logits), "softmax")
    np.testing.assert_allclose(calibrated, softmax(logits / 2))
    np.testing.assert_allclose(calibrated.sum(), 1)


def test_expected_calibration_error_is_its_formula() -> None:
    probabilities = np.array([0.1, 0.1, 0.9, 0.9])
    truth = np.array([0.0, 1.0, 1.0, 1.0])
    assert expected_calibration_error(probabilities, truth, bins=10) == pytest.approx(0.5 * 0.4 + 0.5 * 0.1)


def test_unread_labels_do_not_count() -> None:
    probabilities = np.array([[0.9, 0.2], [0.1, 0.2]])
    truth = np.array([[1.0, np.nan], [0.0, np.nan]])
    assert quality_of(probabilities, truth).brier_score == pytest.approx(0.01)


def test_fit_that_is_no_better_than_none_is_not_kept() -> None:
    random = np.random.default_rng(3)
    logits = random.normal(0, 2, (400, 1))
    truth = (random.random(logits.shape) < sigmoid(logits)).astype(np.float64)
    assert not try_calibration("isotonic", logits, truth, "sigmoid").better  # 200 cases follow their noise
    nobody = try_calibration("platt", logits, np.ones_like(truth), "sigmoid")
    assert nobody.calibration == Platt(slopes=(1.0,), intercepts=(0.0,))
    assert not nobody.better
    assert try_calibration("temperature", 3 * logits, truth, "sigmoid").better
