"""Importers that ask instead of guessing, keep what a file says, and take only what an engine can load."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import torchvision
import torchxrayvision as xrv
from torch import nn

from inference.engines import engine_class
from inference.errors import ModelAbsent, ModelInvalid
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.anatomy import structure
from inference.store.importers import published, published_model
from inference.volumes.normalisation import resized
from tests.seeded import seeded_densenet
from tests.volume_models import metastasis_checkpoint, pivot_checkpoint


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
        store.import_file(file, name="x", labels=tmp_path / "labels.json", trust=True)
    with pytest.raises(ModelAbsent):
        store.get("x")
    card = store.import_file(
        file, name="x", labels=tmp_path / "labels.json", normalisation="unit", trust=True
    ).card
    assert (card.preprocessing.style, card.input_channels) == ("unit", channels)


def test_imagenet_scaling_is_for_three_channels(store: ModelStore, tmp_path: Path) -> None:
    file = densenet_file(tmp_path, 1)
    with pytest.raises(ModelInvalid, match="for three channels, and the network has 1"):
        store.import_file(
            file, name="x", labels=tmp_path / "labels.json", normalisation="imagenet", trust=True
        )


def test_operating_points_of_a_state_dict_are_kept(store: ModelStore, tmp_path: Path) -> None:
    network = seeded_densenet(3)
    state = {**network.state_dict(), "op_threshs": torch.tensor([*([0.3] * 17), float("nan")])}
    torch.save(state, tmp_path / "state.pth")
    (tmp_path / "labels.json").write_text(json.dumps({"classes": list(xrv.datasets.default_pathologies)}))
    card = store.import_file(
        tmp_path / "state.pth", name="x", labels=tmp_path / "labels.json", trust=True
    ).card
    points = [label.operating_point for label in card.labels]
    assert points[:17] == [pytest.approx(0.3)] * 17
    assert points[17] is None


@pytest.mark.parametrize("prefix", ["", "model."])
def test_published_resnet_has_labels_and_operating_points_in_both_layouts(prefix: str) -> None:
    network = torchvision.models.resnet50(weights=None, num_classes=18)
    network.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    tensors = {f"{prefix}{name}": tensor for name, tensor in network.state_dict().items()}
    set_ = published("resnet50-res512-all")
    draft = published_model(tensors, {}, set_)
    assert draft.input_size == 512
    assert tuple(label.name for label in draft.labels) == set_.labels
    assert tuple(label.operating_point for label in draft.labels) == set_.operating_points


def test_module_of_a_resnet_keeps_its_operating_points(store: ModelStore, tmp_path: Path) -> None:
    inner = torchvision.models.resnet50(weights=None, num_classes=18)
    inner.conv1 = nn.Conv2d(1, 64, 7, 2, 3, bias=False)
    module = xrv.models.ResNet.__new__(xrv.models.ResNet)
    nn.Module.__init__(module)
    module.model, module.targets = inner, list(xrv.datasets.default_pathologies)
    module.register_buffer("op_threshs", torch.full((18,), 0.4))
    torch.save(module, tmp_path / "resnet.pt")
    card = store.import_file(tmp_path / "resnet.pt", name="x", trust=True).card
    assert card.preprocessing.style == "torchxrayvision"
    assert [label.operating_point for label in card.labels] == [pytest.approx(0.4)] * 18


def test_downloaded_file_is_imported_as_the_set_that_it_is(store: ModelStore, tmp_path: Path) -> None:
    torch.save(seeded_densenet(4).state_dict(), tmp_path / "weights.pt")
    card = store.import_file(
        tmp_path / "weights.pt", name="x", published="densenet121-res224-all", trust=True
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


@pytest.mark.parametrize("said", [0.5, None])
def test_metastasis_threshold_is_that_of_the_file(
    store: ModelStore, tmp_path: Path, said: float | None
) -> None:
    metastasis_checkpoint(tmp_path / "state.pth")
    content = {"model_state_dict": torch.load(tmp_path / "state.pth", weights_only=True)}
    torch.save(content if said is None else {**content, "optimal_threshold": said}, tmp_path / "mets.pth")
    card = store.import_file(tmp_path / "mets.pth", name="mets", trust=True).card
    assert card.reported[0].as_finding().thresholds.high == (0.25 if said is None else said)
    assert card.volume is not None and card.volume.resize == "linear"


@pytest.mark.parametrize("shape", [(512, 512), (500, 300), (100, 128)])
def test_linear_resize_is_that_of_opencv(shape: tuple[int, int]) -> None:
    picture = np.random.default_rng(1).normal(size=shape).astype(np.float32)
    expected = cv2.resize(picture, (256, 256), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_allclose(resized(picture, 256, "linear"), expected, atol=2e-3)


def test_nodule_network_without_triage_and_size_runs(store: ModelStore, tmp_path: Path) -> None:
    pivot_checkpoint(tmp_path / "pivot.ckpt")
    state = torch.load(tmp_path / "pivot.ckpt", weights_only=True)["state_dict"]
    kept = {name: t for name, t in state.items() if "triage" not in name and "size" not in name}
    torch.save({"state_dict": kept}, tmp_path / "bare.ckpt")
    card = store.import_file(tmp_path / "bare.ckpt", name="bare", trust=True).card
    assert card.architecture.heads == ()  # type: ignore[union-attr]
    settings = EngineSettings(name="x", kind="lung_nodule", model="bare", device="cpu")
    engine = engine_class("lung_nodule").load(settings, store)
    assert engine.malignancy(np.zeros((16, 16, 16), np.float32), []) == []  # type: ignore[attr-defined]


def test_model_that_cannot_be_loaded_is_not_taken(store: ModelStore, tmp_path: Path) -> None:
    state = seeded_densenet(5).state_dict()
    state.pop("features.norm5.weight")
    torch.save(state, tmp_path / "cut.pth")
    with pytest.raises(ModelInvalid, match="the model cannot be loaded: "):
        store.import_file(tmp_path / "cut.pth", name="cut", published="densenet121-res224-all", trust=True)
    with pytest.raises(ModelAbsent):
        store.get("cut")


def test_verify_can_load(store: ModelStore, tmp_path: Path) -> None:
    torch.save(seeded_densenet(6).state_dict(), tmp_path / "weights.pt")
    stored = store.import_file(
        tmp_path / "weights.pt", name="x", published="densenet121-res224-all", trust=True
    )
    file = stored.weights.with_name("card.json")
    card = json.loads(file.read_text())
    card["architecture"]["growth_rate"] = 16
    file.write_text(json.dumps(card))
    (verdict,) = [v for v in store.verify() if v.name == "x"]
    assert verdict.ok
    (verdict,) = [v for v in store.verify(load=True) if v.name == "x"]
    assert not verdict.ok and "do not fit its card" in verdict.message


def test_every_rib_has_a_code_of_its_own() -> None:
    ribs = [structure(n, f"rib_{side}_{n}") for side in ("left", "right") for n in range(1, 13)]
    codes = {rib.type.value for rib in ribs if rib.type is not None}
    assert len(codes) == 12
    assert ribs[6].type is not None and ribs[6].type.meaning == "Seventh rib"
    vertebrae = {structure(n, f"vertebrae_L{n}").type for n in range(1, 6)}
    assert len(vertebrae) == 5 and None not in vertebrae
