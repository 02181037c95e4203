"""The model store: what it takes, what it refuses, and that nothing is unpickled unasked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import torchxrayvision as xrv
from safetensors.torch import load_file, save_file

from inference.engines import engine_class
from inference.engines.chest_xray import ChestXrayEngine
from inference.errors import InferenceError, ModelAbsent, ModelInvalid, ModelUntrusted
from inference.importing.imports import import_model, pull_model
from inference.importing.torchxrayvision import published
from inference.settings import EngineSettings
from inference.store import ModelStore, StoredModel
from inference.store.card_parts import Temperature


@pytest.fixture(scope="module")
def pickled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A seeded model in the layout in which torchxrayvision publishes its weights."""
    torch.manual_seed(2)
    model = xrv.models.DenseNet(weights=None, num_classes=18, apply_sigmoid=False)
    model.targets = model.pathologies = [*xrv.datasets.default_pathologies[:17], ""]
    model.op_threshs = torch.tensor([*([0.3] * 17), float("nan")])
    path = tmp_path_factory.mktemp("pickled") / "seeded.pt"
    torch.save(model, path)
    return path


@pytest.fixture(scope="module")
def converted(pickled: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredModel:
    """The same, taken into a store; not to be changed."""
    store = ModelStore(tmp_path_factory.mktemp("converted"))
    return import_model(store, pickled, name="seeded", trust=True)


@pytest.fixture
def seeded(store: ModelStore, converted: StoredModel) -> StoredModel:
    """The same in the test's own store."""
    shutil.copytree(converted.weights.parent, store.folder / "seeded")
    return store.get("seeded")


def test_demonstration_model_comes_with_the_package(store: ModelStore) -> None:
    stored = store.get("demo", "chest_xray")
    assert stored.card.demonstration
    assert stored.card.identity.demonstration
    assert stored.weights.stat().st_size < 4_000_000
    assert "not for clinical use" in stored.card.training
    assert all(value > 0.9 for value in stored.card.auc.values())
    assert all(verdict.ok for verdict in store.verify())


def test_pickled_file_needs_trust(store: ModelStore, pickled: Path) -> None:
    with pytest.raises(ModelUntrusted, match="--trust"):
        import_model(store, pickled, name="seeded")
    assert [e for e in store.entries() if not e.card.demonstration] == []


@pytest.mark.engine
def test_pickled_file_is_converted_with_its_labels_and_operating_points(
    store: ModelStore, pickled: Path, seeded: StoredModel
) -> None:
    labels = seeded.card.labels
    assert labels[0].name == "Atelectasis"
    assert labels[0].operating_point == pytest.approx(0.3)
    assert (labels[17].name, labels[17].operating_point) == ("", None)
    original = torch.load(pickled, weights_only=False).state_dict()
    kept = load_file(seeded.weights)
    assert kept.keys() == {name for name in original if name != "op_threshs"}
    assert all(torch.equal(kept[name], original[name]) for name in kept)
    engine = ChestXrayEngine.load(EngineSettings(name="x", kind="chest_xray", model="seeded"), store)
    assert engine.model.version.startswith("1+")
    assert [e.card.name for e in store.entries() if e.card.name != "demo"] == ["seeded"]
    assert {e.card.kind for e in store.entries() if e.card.demonstration} >= {"chest_xray"}


def test_code_in_a_pickle_runs_in_a_process_of_its_own(store: ModelStore, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os._exit, (7,)

    path = tmp_path / "evil.pt"
    torch.save(Evil(), path)
    with pytest.raises(ModelInvalid):
        import_model(store, path, name="evil", trust=True)


def test_safetensors_with_a_card_are_taken_as_they_are(store: ModelStore, tmp_path: Path) -> None:
    demo = store.get("demo", "chest_xray")
    (tmp_path / "mine.safetensors").write_bytes(demo.weights.read_bytes())
    (tmp_path / "mine.json").write_text(demo.card.model_dump_json())
    stored = import_model(store, tmp_path / "mine.safetensors", name="mine")
    assert stored.card.name == "mine"
    assert stored.card.sha256 == demo.card.sha256


def test_weights_without_a_card_or_with_another_one_are_refused(store: ModelStore, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "mine.safetensors")
    with pytest.raises(ModelInvalid, match="has no card"):
        import_model(store, tmp_path / "mine.safetensors", name="mine")
    (tmp_path / "mine.json").write_text(store.get("demo", "chest_xray").card.model_dump_json())
    with pytest.raises(ModelInvalid, match="digests differ"):
        import_model(store, tmp_path / "mine.safetensors", name="mine")


def test_changed_weights_are_found_and_not_loaded(store: ModelStore, seeded: StoredModel) -> None:
    data = bytearray(seeded.weights.read_bytes())
    data[-1] ^= 1
    seeded.weights.write_bytes(data)
    assert {(v.name, v.ok) for v in store.verify()} == {("demo", True), ("seeded", False)}
    with pytest.raises(ModelInvalid):
        store.get("seeded")


def test_card_with_an_unknown_key_is_refused_with_its_place(store: ModelStore, seeded: StoredModel) -> None:
    card = json.loads((seeded.weights.parent / "card.json").read_text())
    card["colour"] = "blue"
    (seeded.weights.parent / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelInvalid, match="colour"):
        store.get("seeded")
    assert [v.name for v in store.verify() if not v.ok] == ["seeded"]


@pytest.mark.parametrize("name", ["../x", "", "demo", "a/b", ".hidden"])
def test_names_that_are_no_names_are_refused(store: ModelStore, pickled: Path, name: str) -> None:
    with pytest.raises(ModelInvalid, match="cannot be a model's name"):
        import_model(store, pickled, name=name, trust=True)


@pytest.mark.engine
def test_labels_that_do_not_fit_are_refused(store: ModelStore, pickled: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text('{"classes": ["a", "b"]}')
    with pytest.raises(ModelInvalid, match="18 outputs and 2 labels"):
        import_model(store, pickled, name="seeded", labels=tmp_path / "labels.json", trust=True)
    (tmp_path / "labels.json").write_text("[]")
    with pytest.raises(InferenceError, match="no labels file"):
        import_model(store, pickled, name="seeded", labels=tmp_path / "labels.json", trust=True)


def test_published_sets_have_labels_and_operating_points(store: ModelStore) -> None:
    entry = published("densenet121-res224-nih")
    assert entry.labels[14] == ""
    assert entry.operating_points is not None
    assert entry.operating_points[14] is None
    with pytest.raises(ModelAbsent, match="densenet121-res224-all"):
        pull_model(store, "nothing-like-it")


def test_model_may_be_named_by_its_folder_or_file(store: ModelStore) -> None:
    demo = store.get("demo", "chest_xray")
    assert store.get(str(demo.weights.parent)).card == demo.card
    assert store.get(str(demo.weights)).card == demo.card


def test_calibration_makes_a_version_and_the_former_one_can_be_taken_back(
    store: ModelStore, seeded: StoredModel
) -> None:
    first = seeded.card.identity.version
    second = store.set_calibration("seeded", Temperature(temperature=2.0)).card.identity.version
    assert second != first
    assert [v.card.identity.version for v in store.history("seeded")] == [first, second]
    assert [v.used for v in store.history("seeded")] == [False, True]
    assert store.get(f"seeded@{first}").card == seeded.card
    assert store.get(f"seeded@{second[-8:]}").card.calibration == Temperature(temperature=2.0)
    store.use(f"seeded@{first}")
    assert store.get("seeded").card == seeded.card
    assert [v.used for v in store.history("seeded")] == [True, False]
    with pytest.raises(ModelAbsent, match="has no version 'nope': see `overread models history seeded`"):
        store.use("seeded@nope")
    with pytest.raises(ModelAbsent, match="has no version"):
        store.use(f"seeded@{second[-1]}")  # the end of a digest may be that of another one
    with pytest.raises(ModelAbsent, match="model 'none' is not in the store"):
        store.history("none")
    import_model(store, seeded.weights, name="seeded")  # a repair keeps the history
    assert len(store.history("seeded")) == 2


def test_no_former_card_is_lost(store: ModelStore, seeded: StoredModel) -> None:
    versions = [
        store.set_calibration("seeded", Temperature(temperature=t)).card.identity.version for t in (2.0, 3.0)
    ]
    (store.folder / "seeded" / "history" / "0002.json").unlink()
    store.set_calibration("seeded", Temperature(temperature=4.0))
    assert versions[1] in [v.card.identity.version for v in store.history("seeded")]
    card = store.get("seeded").card
    by_hand = card.model_copy(update={"calibration": Temperature(temperature=5.0)})
    (store.folder / "seeded" / "card.json").write_text(by_hand.model_dump_json())
    imported = store.folder.parent / "file.safetensors"
    imported.write_bytes(seeded.weights.read_bytes())
    imported.with_suffix(".json").write_text(seeded.card.model_dump_json())
    import_model(store, imported, name="seeded")
    assert by_hand in [v.card for v in store.history("seeded")]


@pytest.mark.parametrize("kind", ["chest_xray", "lung_nodule", "brain_metastasis"])
@pytest.mark.engine
def test_thresholds_of_the_configuration_make_a_version(store: ModelStore, kind: str) -> None:
    label = next(iter(store.get("demo", kind).card.reported.values())).name

    def version(options: Mapping[str, object]) -> str:
        settings = EngineSettings(name="e", kind=kind, model="demo", options=options)
        return engine_class(kind).load(settings, store).model.version

    low, high = ({label: {"low": 0.1, "high": high, "critical": 0.9}} for high in (0.4, 0.5))
    versions = [version(options) for options in ({}, {"thresholds": low}, {"thresholds": high})]
    assert len(set(versions)) == 3
    assert version({"thresholds": low}) == versions[1]


def test_threshold_changed_by_hand_makes_a_version(store: ModelStore, seeded: StoredModel) -> None:
    file = seeded.weights.with_name("card.json")
    card = json.loads(file.read_text())
    card["labels"][0]["thresholds"]["high"] += 0.01
    file.write_text(json.dumps(card))
    changed = store.get("seeded").card.identity.version
    assert changed != seeded.card.identity.version
    assert changed.startswith(f"{seeded.card.version}+{seeded.card.sha256[:12]}.")
    card["training"] = "somewhere else"
    file.write_text(json.dumps(card))
    assert store.get("seeded").card.identity.version == changed
