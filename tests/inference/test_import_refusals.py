"""Importers that ask instead of guessing, keep what a file says, and take only what an engine can load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
import torchvision
import torchxrayvision as xrv
from safetensors.torch import load_file
from torch import nn

from inference.demo.volume_phantoms import lung_phantom, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.errors import ModelAbsent, ModelInvalid
from inference.importing.anatomy import card_structure
from inference.importing.imports import draft_of, import_model
from inference.importing.metastasis import metastasis_model
from inference.importing.torchxrayvision import Normalisation, published, published_model
from inference.importing.trial import refusal_of
from inference.offline.output import detection_document
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import PivotArchitecture
from inference.volumes.normalisation import resized
from tests.seeded import seeded_densenet
from tests.volume_models import metastasis_checkpoint

pytestmark = pytest.mark.engine


def densenet_file(folder: Path, channels: int) -> Path:
    """A bare state dict of torchvision's DenseNet-121 with three outputs, and their names beside it."""
    torch.manual_seed(1)
    network = torchvision.models.densenet121(weights=None, num_classes=3)
    network.features.conv0 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    torch.save(network.state_dict(), folder / "densenet.pth")
    (folder / "labels.json").write_text(json.dumps({"classes": ["Pneumonia", "Mass", "Nodule"]}))
    return folder / "densenet.pth"


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_that_nobody_says_is_asked_for(
    store: ModelStore, tmp_path: Path, channels: int
) -> None:
    file = densenet_file(tmp_path, channels)
    with pytest.raises(ModelInvalid, match=r"add --normalisation torchxrayvision .* imagenet .* or unit"):
        import_model(store, file, name="x", labels=tmp_path / "labels.json", trust=True)
    with pytest.raises(ModelAbsent):
        store.get("x")
    card = import_model(
        store, file, name="x", labels=tmp_path / "labels.json", normalisation="unit", trust=True
    ).card
    assert (card.preprocessing.style, card.input_channels) == ("unit", channels)


def test_labels_in_a_checkpoint_say_no_normalisation(store: ModelStore, tmp_path: Path) -> None:
    state = torch.load(densenet_file(tmp_path, 3), weights_only=True)
    torch.save({"state_dict": state, "targets": ["Pneumonia", "Mass", "Nodule"]}, tmp_path / "trained.pth")
    with pytest.raises(ModelInvalid, match="add --normalisation"):
        import_model(store, tmp_path / "trained.pth", name="x", trust=True)


def test_normalisation_of_a_known_layout_is_not_to_be_said(store: ModelStore, tmp_path: Path) -> None:
    metastasis_checkpoint(tmp_path / "mets.pth")
    with pytest.raises(ModelInvalid, match="leave --normalisation out"):
        import_model(store, tmp_path / "mets.pth", name="x", normalisation="unit", trust=True)


def resnet_tensors(channels: int) -> dict[str, torch.Tensor]:
    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = nn.Conv2d(channels, 64, 7, 2, 3, bias=False)
    tensors: dict[str, torch.Tensor] = network.state_dict()
    return tensors


def test_picture_size_of_a_resnet_goes_with_its_normalisation() -> None:
    tensors, names = resnet_tensors(3), {"classes": list(xrv.datasets.default_pathologies)}
    sizes: dict[Normalisation, int] = {"torchxrayvision": 512, "imagenet": 224, "unit": 224}
    for style, size in sizes.items():
        draft = draft_of(tensors, {}, kind=None, names=names, normalisation=style)
        assert (draft.preprocessing.style, draft.input_size) == (style, size)


@pytest.mark.parametrize("name", ["fc.weight", "model.conv1.weight", "prototypes"])
def test_layouts_that_begin_like_others_are_refused(name: str) -> None:
    with pytest.raises(ModelInvalid, match="the checkpoint"):
        draft_of({name: torch.zeros(2, 2)}, {}, kind=None, names={})


def test_file_of_another_layout_is_not_the_published_set() -> None:
    for tensors, name in (
        (resnet_tensors(1), "densenet121-res224-all"),
        ({"features.conv0.weight": torch.zeros(64, 1, 7, 7)}, "resnet50-res512-all"),
        ({"weight": torch.zeros(2)}, "resnet50-res512-all"),
        (torchvision.models.densenet121(num_classes=18).state_dict(), "densenet121-res224-all"),
    ):
        with pytest.raises(ModelInvalid, match=f"the file is not {name}"):
            published_model(tensors, {}, published(name))


def test_vision_transformer_of_newer_transformers_has_the_former_names() -> None:
    names = {
        "embeddings.cls_token": "embeddings.cls_token",
        "layers.11.attention.q_proj.weight": "encoder.layer.11.attention.attention.query.weight",
        "layers.11.attention.k_proj.bias": "encoder.layer.11.attention.attention.key.bias",
        "layers.11.attention.v_proj.bias": "encoder.layer.11.attention.attention.value.bias",
        "layers.11.attention.o_proj.bias": "encoder.layer.11.attention.output.dense.bias",
        "layers.11.mlp.fc1.weight": "encoder.layer.11.intermediate.dense.weight",
        "layers.11.mlp.fc2.weight": "encoder.layer.11.output.dense.weight",
        "layers.11.layernorm_before.weight": "encoder.layer.11.layernorm_before.weight",
        "layernorm.weight": "layernorm.weight",
    }
    heads = {
        "prototypes": torch.zeros(2, 128, 1, 1),
        "concept_head.weight": torch.zeros(2, 768, 1, 1),
        "task_head.weight": torch.zeros(1, 2),
    }
    for state in (names.keys(), names.values()):
        tensors = {**heads, **{f"backbone.vit.{name}": torch.zeros(1) for name in state}}
        draft = draft_of(tensors, {}, kind=None, names={"classes": ["Mass"]})
        assert set(draft.tensors) == {*heads, *(f"backbone.vit.{name}" for name in names.values())}


def test_imagenet_scaling_is_for_three_channels(store: ModelStore, tmp_path: Path) -> None:
    file = densenet_file(tmp_path, 1)
    with pytest.raises(ModelInvalid, match="for three channels, and the network has 1"):
        import_model(
            store, file, name="x", labels=tmp_path / "labels.json", normalisation="imagenet", trust=True
        )


def test_operating_points_of_a_state_dict_are_kept(store: ModelStore, tmp_path: Path) -> None:
    network = seeded_densenet(3)
    state = {**network.state_dict(), "op_threshs": torch.tensor([*([0.3] * 17), float("nan")])}
    torch.save(state, tmp_path / "state.pth")
    (tmp_path / "labels.json").write_text(json.dumps({"classes": list(xrv.datasets.default_pathologies)}))
    card = import_model(
        store, tmp_path / "state.pth", name="x", labels=tmp_path / "labels.json", trust=True
    ).card
    points = [label.operating_point for label in card.labels]
    assert points[:17] == [pytest.approx(0.3)] * 17
    assert points[17] is None


@pytest.mark.parametrize("prefix", ["", "model."])
def test_published_resnet_has_labels_and_operating_points_in_both_layouts(prefix: str) -> None:
    tensors = {f"{prefix}{name}": tensor for name, tensor in resnet_tensors(1).items()}
    set_ = published("resnet50-res512-all")
    draft = published_model(tensors, {}, set_)
    assert draft.input_size == 512
    assert tuple(label.operating_point for label in draft.labels) == set_.operating_points
    for name, label in zip(set_.labels, draft.labels, strict=True):
        assert label.name == ("" if label.operating_point is None else name)


def test_downloaded_file_is_imported_as_the_set_that_it_is(store: ModelStore, tmp_path: Path) -> None:
    torch.save(seeded_densenet(4).state_dict(), tmp_path / "weights.pt")
    card = import_model(
        store, tmp_path / "weights.pt", name="x", published="densenet121-res224-all", trust=True
    ).card
    wanted = published("densenet121-res224-all")
    assert tuple(label.name for label in card.labels) == wanted.labels
    assert tuple(label.operating_point for label in card.labels) == wanted.operating_points


def test_baseline_models_are_refused_by_name_with_the_reason() -> None:
    with pytest.raises(ModelAbsent, match="'jfhealthcare' cannot be run here: it pools by attention maps"):
        published("jfhealthcare")
    known = {name for name in dir(xrv.baseline_models) if not name.startswith("_")}
    for name in known:
        with pytest.raises(ModelAbsent, match="cannot be run here"):
            published(name)


@pytest.mark.parametrize("said", [0.5, np.float32(0.3), torch.tensor(0.3), None])
def test_metastasis_threshold_is_that_of_the_file(store: ModelStore, tmp_path: Path, said: Any) -> None:
    metastasis_checkpoint(tmp_path / "state.pth")
    content = {"model_state_dict": torch.load(tmp_path / "state.pth", weights_only=True)}
    torch.save(content if said is None else {**content, "optimal_threshold": said}, tmp_path / "mets.pth")
    card = import_model(store, tmp_path / "mets.pth", name="mets", trust=True).card
    wanted = 0.25 if said is None else float(said)
    assert card.reported[0].as_finding().thresholds.high == wanted
    assert card.volume is not None and card.volume.resize == "linear"


@pytest.mark.parametrize("said", ["0.5", 1.5, True])
def test_metastasis_threshold_that_is_no_probability_is_refused(said: object) -> None:
    with pytest.raises(ModelInvalid, match=r"optimal_threshold is .*, which is not a probability"):
        metastasis_model({}, {"optimal_threshold": said})


@pytest.mark.parametrize("shape", [(512, 512), (500, 300), (100, 128)])
def test_linear_resize_is_that_of_opencv(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized(picture, 256, "linear"), expected, atol=1e-5)


def test_nodule_network_without_triage_and_size_runs(store: ModelStore, tmp_path: Path) -> None:
    state = load_file(store.get("demo", "lung_nodule").weights)
    kept = {name: t for name, t in state.items() if not name.startswith(("triage_head.", "size_head."))}
    torch.save({"state_dict": kept}, tmp_path / "bare.ckpt")
    card = import_model(store, tmp_path / "bare.ckpt", name="bare", trust=True).card
    assert isinstance(card.architecture, PivotArchitecture)
    assert card.architecture.heads == ()
    phantom = lung_phantom(10_000_003, (48, 100, 110), (1.5, 0.9, 0.8), nodules=2)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    series = write_ct_series(tmp_path / "in", phantom.values, geometry, body_part="CHEST")
    settings = EngineSettings(name="x", kind="lung_nodule", model="bare", device="cpu")
    engine = engine_class("lung_nodule").load(settings, store)
    (analysis,) = engine.infer(engine.prepare(series))
    assert analysis.detections
    assert {(d.malignancy, d.risk) for d in analysis.detections} == {(None, None)}
    for detection in detection_document(analysis)["detections"]:
        assert detection["triage"] == {"malignancy_score": None, "risk_category": None}


def test_model_that_cannot_be_loaded_is_not_taken(store: ModelStore, tmp_path: Path) -> None:
    state = seeded_densenet(5).state_dict()
    state.pop("features.norm5.weight")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ModelInvalid, match=r"the model cannot be loaded: .*features\.norm5\.weight"):
        import_model(store, tmp_path / "cut.pth", name="cut", published="densenet121-res224-all", trust=True)
    with pytest.raises(ModelAbsent):
        store.get("cut")


def test_verify_can_load(store: ModelStore, tmp_path: Path) -> None:
    torch.save(seeded_densenet(6).state_dict(), tmp_path / "weights.pt")
    stored = import_model(
        store, tmp_path / "weights.pt", name="x", published="densenet121-res224-all", trust=True
    )
    file = stored.weights.with_name("card.json")
    card = json.loads(file.read_text())
    card["architecture"]["growth_rate"] = 16
    file.write_text(json.dumps(card))
    (verdict,) = [v for v in store.verify() if v.name == "x"]
    assert verdict.ok
    (verdict,) = [v for v in store.verify(refusal_of) if v.name == "x"]
    assert not verdict.ok and "do not fit its card (size mismatch" in verdict.message


def test_every_rib_has_a_code_of_its_own() -> None:
    ribs = [card_structure(n, f"rib_{side}_{n}") for side in ("left", "right") for n in range(1, 13)]
    codes = {rib.type.value for rib in ribs if rib.type is not None}
    assert len(codes) == 12
    assert ribs[6].type is not None and ribs[6].type.meaning == "Seventh rib"
    vertebrae = {card_structure(n, f"vertebrae_L{n}").type for n in range(1, 6)}
    assert len(vertebrae) == 5 and None not in vertebrae
