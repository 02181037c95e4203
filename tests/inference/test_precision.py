"""A reduced precision is compared with fp32 for every engine."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from inference.engines import engine_class, engine_kinds
from inference.errors import EngineMisconfigured
from inference.importing import nnunet
from inference.importing.imports import import_model
from inference.running import precision
from inference.running.precision import check_precision
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.inference.test_engine_contract import MODELS, seeded_model
from tests.volume_models import add_ct_chest, bundle_folder, nnunet_folder

pytestmark = pytest.mark.engine

DEMONSTRATED = ("brain_metastasis", "hybrid_volume", "lung_nodule")


def settings(kind: str, model: str) -> EngineSettings:
    return EngineSettings(name="x", kind=kind, model=model, device="cpu", backend="torch", precision="bf16")


def stored(folder: Path, kind: str) -> tuple[ModelStore, str]:
    """A store with a small model for engines of a kind, and the model's name."""
    store = ModelStore(folder / "models")
    if kind in MODELS:
        seeded_model(store, kind)
    elif kind in DEMONSTRATED:
        return store, "demo"
    elif kind == "ct_chest":
        add_ct_chest(store, "seeded")
    elif kind in nnunet.KINDS:
        nnunet_folder(folder / "results", {"background": 0, "brain": 1})
        import_model(store, folder / "results", name="seeded", kind=kind, trust=True)
    else:
        bundle_folder(folder / "bundle", {"0": "background", "1": "spleen"})
        import_model(store, folder / "bundle", name="seeded", trust=True)
    return store, "seeded"


@pytest.mark.parametrize("kind", sorted(set(engine_kinds()) - {"whole_body_ct"}))
def test_every_kind_compares_a_reduced_precision_with_fp32(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = stored(tmp_path, kind)
    monkeypatch.setattr(precision, "PRECISION_TOLERANCE", 1.0)
    engine_class(kind).load(settings(kind, model), store)
    monkeypatch.setattr(precision, "PRECISION_TOLERANCE", 0.0)
    with pytest.raises(EngineMisconfigured, match=r"precision bf16 .* use fp32"):
        engine_class(kind).load(settings(kind, model), store)


def test_concept_maps_count_where_the_logits_do_not_move(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, model = stored(tmp_path, "concept_prototype")
    found = store.get(model)
    tensors = load_file(found.weights)
    tensors["task_head.weight"].zero_()
    save_file(tensors, found.weights)
    file = found.weights.parent / "card.json"
    digest = hashlib.sha256(found.weights.read_bytes()).hexdigest()
    file.write_text(file.read_text().replace(found.card.sha256, digest))
    monkeypatch.setattr(precision, "PRECISION_TOLERANCE", 0.0)
    with pytest.raises(EngineMisconfigured, match="use fp32"):
        engine_class("concept_prototype").load(settings("concept_prototype", model), store)


@pytest.mark.parametrize("value", [0.52, float("nan")])
def test_probabilities_too_far_or_no_numbers_are_refused(value: float) -> None:
    exact: list[Any] = [np.array([0.1, 0.2]), np.full((2, 3), 0.5)]
    close: list[Any] = [np.array([0.1, 0.209]), np.full((2, 3), 0.5)]
    check_precision(settings("ct_chest", "a"), "a", close, exact)
    close[1] = np.array([[0.5, 0.5, 0.5], [0.5, value, 0.5]])
    with pytest.raises(EngineMisconfigured, match=r"model 'a' are up to .* use fp32"):
        check_precision(settings("ct_chest", "a"), "a", close, exact)
