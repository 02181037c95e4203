"""Checkpoints of other systems give the numbers of those systems, shown on seeded files of their layouts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
import torchxrayvision as xrv
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision import transforms

from inference.engines import engine_class
from inference.engines.concept_prototype import ConceptPrototypeEngine
from inference.engines.image import ImageCase
from inference.importing.imports import import_model
from inference.networks.vit import VisionTransformer
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.inference.test_engine_contract import analyse

pytestmark = pytest.mark.engine

IMAGENET = transforms.Compose(
    [
        transforms.Resize((224, 224)),
        transforms.ToTensor(),
        transforms.Normalize(mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225]),
    ]
)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A grey picture that is not square."""
    path = tmp_path_factory.mktemp("picture") / "chest.png"
    random = np.random.default_rng(3)
    smooth = np.add.outer(np.sin(np.arange(500) / 60), np.cos(np.arange(430) / 45)) * 50 + 128
    Image.fromarray((smooth + random.normal(0, 8, smooth.shape)).clip(0, 255).astype(np.uint8)).save(path)
    return path


def settle(network: nn.Module) -> None:
    """Give batch norms statistics, as training would."""
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.randn(2, 3, 224, 224))
    network.eval()


def test_pneumonia_checkpoint_gives_the_originals_probabilities(tmp_path: Path, picture: Path) -> None:
    torch.manual_seed(1)
    original = torchvision.models.efficientnet_b0(weights=None)
    original.classifier[1] = nn.Linear(1280, 2)
    settle(original)
    torch.save(
        {
            "epoch": 5,
            "state_dict": original.state_dict(),
            "class_names": ["NORMAL", "PNEUMONIA"],
            "best_val_acc": 95.2,
            "architecture": "efficientnet_b0",
        },
        tmp_path / "lungs.pth",
    )
    store = ModelStore(tmp_path / "models")
    card = import_model(store, tmp_path / "lungs.pth", name="lungs", trust=True).card
    assert (card.kind, card.activation, card.negative_class) == ("pneumonia", "softmax", "Normal")
    settings = EngineSettings(name="x", kind="pneumonia", model="lungs", backend="torch")
    analysis = analyse(engine_class("pneumonia").load(settings, store), picture)
    with torch.no_grad():
        expected = original(IMAGENET(Image.open(picture).convert("RGB"))[None]).softmax(dim=1)[0].numpy()
    # Normal is what the report does not speak of: it has one finding, and the class beside it.
    assert analysis.labels == ("Pneumonia",)
    assert analysis.absence is not None
    said = [analysis.absence.probability, analysis.findings[0].probability]
    np.testing.assert_allclose(said, expected, atol=1e-4)
    assert analysis.prediction is not None
    name, probability = analysis.prediction
    assert name == ("Normal", "Pneumonia")[int(expected.argmax())]
    assert probability == pytest.approx(expected.max(), abs=1e-4)
    assert list(analysis.heatmaps) == ["Pneumonia"]
    assert "Clinical correlation required" in analysis.disclaimer
    assert (analysis.review_advised is not None) == (expected.max() < 0.7)


class Prototypes(nn.Module):
    """A direct transcription of the method's formulas."""

    def __init__(
        self, backbone: nn.Module, channels: int, concepts: int, per_concept: int, classes: int
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.concept_head = nn.Conv2d(channels, concepts, 1)
        self.projector = nn.Sequential(
            nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, 128, 1)
        )
        self.prototypes = nn.Parameter(torch.randn(concepts * per_concept, 128, 1, 1))
        self.task_head = nn.Linear(concepts * per_concept, classes)

    def forward(
        self, images: torch.Tensor, importance: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        f = self.backbone(images)
        g = self.projector(f)
        g = g / g.norm(dim=1, keepdim=True)
        p = self.prototypes / self.prototypes.norm(dim=1, keepdim=True)
        maps = torch.einsum("bdhw,pd->bphw", g, p[:, :, 0, 0])
        if importance is not None:
            maps = maps * functional.interpolate(importance, size=maps.shape[2:], mode="nearest")
            maps = maps.clamp(min=0)
        scores = maps.flatten(2).max(dim=2).values
        return {
            "logits": self.task_head(scores),
            "similarity_scores": scores,
            "similarity_maps": maps,
            "cams": self.concept_head(f),
            "features": f,
            "projected_features": g,
        }


class VitBackbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.vit = VisionTransformer()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        tokens: torch.Tensor = self.vit(images)[:, 1:]
        return tokens.transpose(1, 2).reshape(len(images), 768, 14, 14)


@pytest.fixture(scope="module", params=["resnet18", "vit_b_16"])
def original(request: pytest.FixtureRequest) -> Prototypes:
    """A seeded network in the original's layout."""
    torch.manual_seed(4)
    if request.param == "resnet18":
        resnet = torchvision.models.resnet18(weights=None)
        network = Prototypes(nn.Sequential(*list(resnet.children())[:-2]), 512, 4, 5, 3)
    else:
        network = Prototypes(VitBackbone(), 768, 4, 5, 3)
    settle(network)
    return network


def imported(original: Prototypes, folder: Path) -> ModelStore:
    state = {f"module.{name}": tensor for name, tensor in original.state_dict().items()}
    torch.save({"model_state_dict": state}, folder / "csr.pth")
    (folder / "labels.json").write_text(
        json.dumps(
            {"concepts": ["Opacity", "Mass", "Edema", "Effusion"], "classes": ["Pneumonia", "COPD", "Tumor"]}
        )
    )
    store = ModelStore(folder / "models")
    import_model(
        store,
        folder / "csr.pth",
        name="csr",
        kind="concept_prototype",
        labels=folder / "labels.json",
        trust=True,
    )
    return store


def test_prototype_checkpoint_gives_the_originals_outputs(
    original: Prototypes, tmp_path: Path, picture: Path
) -> None:
    store = imported(original, tmp_path)
    settings = EngineSettings(name="x", kind="concept_prototype", model="csr", backend="torch")
    engine = engine_class("concept_prototype").load(settings, store)
    (case,) = engine.prepare([picture])
    assert isinstance(engine, ConceptPrototypeEngine) and isinstance(case, ImageCase)
    ours = engine._forward([case])
    with torch.no_grad():
        expected = original(IMAGENET(Image.open(picture).convert("RGB"))[None])
    assert expected["similarity_maps"].min() < -0.1  # else the test could not see a sign that is lost
    for name, tensor in expected.items():
        torch.testing.assert_close(getattr(ours, name), tensor, atol=1e-4, rtol=1e-4)
    analysis = analyse(engine, picture)
    np.testing.assert_allclose(
        [f.probability for f in analysis.findings[:3]], expected["logits"].sigmoid()[0], atol=1e-4
    )
    for reasoning, logit in zip(analysis.reasoning, expected["logits"][0], strict=True):
        assert reasoning.logit == pytest.approx(float(logit), abs=1e-4)
        assert len(reasoning.contributions) == 20
    assert {f.label.name for f in analysis.findings[3:]} == {"Opacity", "Mass", "Edema", "Effusion"}
    assert all(heatmap.method == "Concept map" for heatmap in analysis.heatmaps.values())


def test_region_of_interest_is_the_originals_importance_map(
    original: Prototypes, tmp_path: Path, picture: Path
) -> None:
    store = imported(original, tmp_path)
    settings = EngineSettings(
        name="x", kind="concept_prototype", model="csr", backend="torch", options={"roi": [0, 0, 215, 250]}
    )
    engine = engine_class("concept_prototype").load(settings, store)
    (case,) = engine.prepare([picture])
    importance = torch.zeros(1, 1, 224, 224)
    importance[:, :, :112, :112] = 1
    with torch.no_grad():
        expected = original(IMAGENET(Image.open(picture).convert("RGB"))[None], importance)
    assert isinstance(engine, ConceptPrototypeEngine) and isinstance(case, ImageCase)
    ours = engine._forward([case])
    torch.testing.assert_close(ours.logits, expected["logits"], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.similarity_maps, expected["similarity_maps"], atol=1e-4, rtol=1e-4)


@pytest.fixture(scope="module")
def xrv_resnet() -> xrv.models.ResNet:
    """torchxrayvision's own class, seeded; its constructor would download."""
    torch.manual_seed(2)
    network = xrv.models.ResNet.__new__(xrv.models.ResNet)
    nn.Module.__init__(network)
    published = xrv.models.model_urls["resnet50-res512-all"]
    network.model = torchvision.models.resnet50(num_classes=18, weights=None)
    network.model.conv1 = nn.Conv2d(1, 64, kernel_size=7, stride=2, padding=3, bias=False)
    network.targets, network.apply_sigmoid = published["labels"], False
    network.input_resolution, network.weights = 512, "resnet50-res512-all"
    network.register_buffer("op_threshs", torch.tensor(published["op_threshs"]))
    network.train()
    with torch.no_grad():
        network.model(torch.randn(2, 1, 512, 512) * 400)
    return network.eval()


@pytest.mark.parametrize("layout", ["module", "published", "state dict"])
def test_torchxrayvision_resnet_gives_its_own_probabilities(
    xrv_resnet: xrv.models.ResNet, layout: str, tmp_path: Path
) -> None:
    store = ModelStore(tmp_path / "models")
    said: dict[str, Any] = {}
    content: object = xrv_resnet
    if layout == "published":
        content, said = xrv_resnet.model.state_dict(), {"published": "resnet50-res512-all"}
    elif layout == "state dict":
        content, said = xrv_resnet.state_dict(), {"labels": tmp_path / "labels.json"}
        said["labels"].write_text(json.dumps({"classes": xrv_resnet.targets}))
    torch.save(content, tmp_path / "resnet.pt")
    import_model(store, tmp_path / "resnet.pt", name="resnet", trust=True, **said)
    settings = EngineSettings(name="x", kind="chest_xray", model="resnet", backend="torch")
    cells = np.random.default_rng(1).integers(0, 255, (600, 520), dtype=np.uint8)
    Image.fromarray(cells).save(tmp_path / "chest.png")
    analysis = analyse(engine_class("chest_xray").load(settings, store), tmp_path / "chest.png")
    image = xrv.datasets.normalize(cells.astype(np.float32), 255)[None]
    image = xrv.datasets.XRayResizer(512, engine="skimage")(xrv.datasets.XRayCenterCrop()(image))
    with torch.no_grad():
        expected = xrv_resnet(torch.from_numpy(image.astype(np.float32))[None])[0].numpy()
    told = {f.label.name: f.calibrated_probability for f in analysis.findings}
    untrained = {"Lung Lesion", "Enlarged Cardiomediastinum"}  # of which torchxrayvision always says 0.5
    assert told.keys() == set(xrv_resnet.targets) - untrained
    for name, probability in zip(xrv_resnet.targets, expected.tolist(), strict=True):
        assert probability == pytest.approx(told.get(name, 0.5), abs=1e-4)
