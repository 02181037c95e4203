"""One contract for every engine kind, with seeded weights: what it selects, refuses and gives."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inference.engine import Engine, StagedCase, StagedEngine
from inference.engines import engine_class, engine_kinds
from inference.errors import EngineMisconfigured
from inference.findings import Analysis, Refusal
from inference.headers import ImageHeader
from inference.networks import build_network
from inference.networks.torchvision_networks import TorchvisionNetwork
from inference.offline.output import case_document, stage_summary
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import (
    Architecture,
    DenseNetArchitecture,
    PrototypeArchitecture,
    TorchvisionArchitecture,
)
from inference.store.card import ModelCard
from inference.store.card_parts import Preprocessing
from inference.store.draft import Draft
from inference.store.pathologies import chest_label
from tests.inference.conftest import WriteRadiograph
from tests.inference.test_stages import assert_equal

pytestmark = pytest.mark.engine

SMALL_DENSENET = DenseNetArchitecture(block_config=(2, 2), growth_rate=8, init_features=16, bottleneck=2)

MODELS: dict[str, dict[str, Any]] = {
    "chest_xray": {"architecture": SMALL_DENSENET, "channels": 1, "style": "torchxrayvision"},
    "image_classifier": {
        "architecture": TorchvisionArchitecture(network="resnet18"),
        "channels": 3,
        "style": "imagenet",
        "activation": "softmax",
    },
    "pneumonia": {
        "architecture": TorchvisionArchitecture(network="efficientnet_b0"),
        "channels": 3,
        "style": "imagenet",
        "activation": "softmax",
        "disclaimer": "AI-assisted preliminary reading. Clinical correlation required.",
    },
    "concept_prototype": {
        "architecture": PrototypeArchitecture(
            backbone="resnet18", concepts=("Consolidation", "Opacity"), prototypes_per_concept=3
        ),
        "channels": 3,
        "style": "imagenet",
    },
}
LABELS = ("Pneumonia", "Mass", "Nodule")


def seeded_model(
    store: ModelStore, kind: str, name: str = "seeded", seed: int = 1, **changes: Any
) -> ModelStore:
    """Put a small model with random but settled weights into a store."""
    facts = {**MODELS[kind], **changes}
    torch.manual_seed(seed)
    architecture: Architecture = facts["architecture"]
    size = facts.get("size", 224)
    draft = Draft(
        tensors={},
        kind=kind,
        version="1",
        manufacturer="tests",
        licence="none",
        input_size=size,
        input_channels=facts["channels"],
        architecture=architecture,
        labels=tuple(chest_label(label) for label in facts.get("labels", LABELS)),
        preprocessing=Preprocessing(style=facts["style"]),
        activation=facts.get("activation", "sigmoid"),
        disclaimer=facts.get("disclaimer", ""),
    )
    card: ModelCard = draft.card(name=name, origin="tests", sha256="0" * 64)
    network = build_network(card).train()
    with torch.no_grad():
        scale = 400.0 if facts["style"] == "torchxrayvision" else 1.0
        for _ in range(2):
            network(torch.randn(2, facts["channels"], size, size) * scale)
    tensors = network.weights() if isinstance(network, TorchvisionNetwork) else dict(network.state_dict())
    draft.tensors.update({key: tensor.detach().contiguous() for key, tensor in tensors.items()})
    store.add(draft, name, origin="tests")
    return store


LoadEngine = Callable[..., Engine]


@pytest.fixture(scope="module")
def load(tmp_path_factory: pytest.TempPathFactory) -> LoadEngine:
    """The engine of a kind with a seeded model, loaded once; by PyTorch, where the options do not say otherwise."""
    store = ModelStore(tmp_path_factory.mktemp("models"))
    made: set[str] = set()
    loaded: dict[str, Engine] = {}

    def load_engine(kind: str, backend: str = "torch", **options: Any) -> Engine:
        if kind not in made:
            seeded_model(store, kind, name=kind)
            made.add(kind)
        settings = EngineSettings(
            name=kind, kind=kind, model=kind, device="cpu", backend=backend, options=options
        )
        if repr(settings) not in loaded:
            loaded[repr(settings)] = engine_class(kind).load(settings, store)
        return loaded[repr(settings)]

    return load_engine


def radiograph(write: WriteRadiograph, seed: int = 1, **attributes: Any) -> Path:
    random = np.random.default_rng(seed)
    cells = np.clip(random.normal(120, 40, (300, 260)), 0, 255).astype(np.uint8)
    return write(cells, **attributes)


def analyse(engine: Engine, path: Path) -> Analysis:
    (case,) = engine.prepare([path])
    assert not isinstance(case, Refusal), case
    (analysis,) = engine.infer([case])
    return analysis


def test_every_built_in_kind_is_under_the_contract() -> None:
    images = {kind for kind in engine_kinds() if not engine_class(kind).takes_series}
    assert images == set(MODELS)


@pytest.mark.parametrize("kind", MODELS)
def test_analysis_is_whole(
    load: LoadEngine, write_radiograph: WriteRadiograph, tmp_path: Path, kind: str
) -> None:
    engine = load(kind)
    analysis = analyse(engine, radiograph(write_radiograph))
    assert analysis.labels[: len(LABELS)] == LABELS
    for finding in analysis.findings:
        assert 0 <= finding.probability <= 1
        assert 0 <= finding.calibrated_probability <= 1
        assert math.isfinite(finding.logit)
    assert analysis.heatmaps
    for heatmap in analysis.heatmaps.values():
        assert heatmap.values.shape == analysis.picture.shape
        assert heatmap.values.dtype == np.float32
        assert 0 <= heatmap.values.min() <= heatmap.values.max() <= 1
    assert analysis.model.name == kind
    assert analysis.device == "cpu"
    assert stage_summary([analysis])["ensemble_size"] == 1
    document = case_document(analysis, kind, tmp_path, [])
    assert len(document["labels"]) == len(document["probabilities"]) == len(analysis.findings)


@pytest.mark.parametrize("kind", MODELS)
def test_batch_equals_single_images(load: LoadEngine, write_radiograph: WriteRadiograph, kind: str) -> None:
    engine = load(kind)
    paths = [radiograph(write_radiograph, seed) for seed in range(3)]
    together = engine.infer(engine.prepare(paths))
    for path, analysis in zip(paths, together, strict=True):
        np.testing.assert_allclose(
            [f.probability for f in analysis.findings],
            [f.probability for f in analyse(engine, path).findings],
            atol=1e-4,
        )


@pytest.mark.parametrize("kind", MODELS)
def test_copy_without_networks_prepares_and_concludes(
    load: LoadEngine, write_radiograph: WriteRadiograph, kind: str
) -> None:
    engine = load(kind)
    assert isinstance(engine, StagedEngine)
    paths = [radiograph(write_radiograph, seed) for seed in range(2)]
    cases = engine.prepare(paths)
    outputs = engine.run(cases)
    lean = pickle.loads(pickle.dumps(engine.without_networks()))
    assert_equal(lean.prepare(paths), cases)
    for case, output in zip(cases, pickle.loads(pickle.dumps(outputs)), strict=True):
        assert isinstance(case, StagedCase)
        assert_equal(lean.conclude(case.without_inputs(), output), engine.conclude(case, output))


@pytest.mark.parametrize("kind", MODELS)
def test_both_backends_agree(load: LoadEngine, write_radiograph: WriteRadiograph, kind: str) -> None:
    path = radiograph(write_radiograph)
    by_torch, by_openvino = (analyse(load(kind, backend), path) for backend in ("torch", "openvino"))
    for ours, theirs in zip(by_torch.findings, by_openvino.findings, strict=True):
        assert ours.probability == pytest.approx(theirs.probability, abs=1e-4)
        if ours.heatmap is not None and theirs.heatmap is not None:
            np.testing.assert_allclose(ours.heatmap.values, theirs.heatmap.values, atol=1e-2)


@pytest.mark.parametrize("kind", MODELS)
def test_what_is_refused_is_refused_with_a_reason(
    load: LoadEngine, write_radiograph: WriteRadiograph, kind: str
) -> None:
    engine = load(kind)
    colour = radiograph(write_radiograph, PhotometricInterpretation="PALETTE COLOR")
    (refusal,) = engine.prepare([colour])
    assert isinstance(refusal, Refusal)
    assert refusal.reason
    header = ImageHeader(
        sop_class_uid="1.2",
        sop_instance_uid="1.3",
        attributes={"Modality": "CR", "Rows": "10", "Columns": "10"},
    )
    selection = engine_class(kind).select([header])
    assert selection.inputs == ()
    assert selection.refused["1.3"]


@pytest.mark.parametrize("kind", MODELS)
def test_damaged_file_is_refused(load: LoadEngine, tmp_path: Path, kind: str) -> None:
    (tmp_path / "bad.dcm").write_bytes(bytes(128) + b"DICM" + b"\x08\x00" * 20)
    (refusal,) = load(kind).prepare([tmp_path / "bad.dcm"])
    assert isinstance(refusal, Refusal)


@pytest.mark.parametrize("kind", MODELS)
def test_plain_pictures_are_read(load: LoadEngine, tmp_path: Path, kind: str) -> None:
    random = np.random.default_rng(1)
    Image.fromarray(random.integers(0, 255, (300, 300), dtype=np.uint8)).save(tmp_path / "picture.png")
    assert analyse(load(kind), tmp_path / "picture.png").findings


@pytest.mark.parametrize("kind", MODELS)
def test_unknown_option_is_named(load: LoadEngine, kind: str) -> None:
    with pytest.raises(EngineMisconfigured, match="colour"):
        load(kind, colour="blue")


@pytest.mark.parametrize("kind", MODELS)
def test_every_real_chest_radiograph_is_analysed(load: LoadEngine, real_data: Path, kind: str) -> None:
    engine = load(kind)
    for path in sorted((real_data / "cxr").iterdir()):
        if path.suffix in (".dcm", ".png"):
            assert analyse(engine, path).findings, path.name


@pytest.mark.parametrize(
    "network",
    [
        *("resnet50", "vit_b_16"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("densenet121", "efficientnet_b4", "convnext_base")
        ),
    ],
)
def test_every_backbone_gives_maps(tmp_path: Path, write_radiograph: WriteRadiograph, network: str) -> None:
    store = seeded_model(
        ModelStore(tmp_path / "models"),
        "image_classifier",
        architecture=TorchvisionArchitecture.model_validate({"network": network}),
    )
    settings = EngineSettings(name="x", kind="image_classifier", model="seeded", backend="torch")
    analysis = analyse(engine_class("image_classifier").load(settings, store), radiograph(write_radiograph))
    (heatmap,) = list(analysis.heatmaps.values())[:1]
    assert heatmap.values.max() > 0
    assert heatmap.method == ("Attention rollout" if network == "vit_b_16" else "Grad-CAM")


def test_single_channel_and_softmax_compose(tmp_path: Path, write_radiograph: WriteRadiograph) -> None:
    store = seeded_model(
        ModelStore(tmp_path / "models"), "image_classifier", channels=1, style="unit", activation="softmax"
    )
    settings = EngineSettings(name="x", kind="image_classifier", model="seeded", backend="torch")
    analysis = analyse(engine_class("image_classifier").load(settings, store), radiograph(write_radiograph))
    assert sum(f.probability for f in analysis.findings) == pytest.approx(1)


@pytest.mark.parametrize("method", ["Grad-CAM", "Grad-CAM++", "Saliency", "SHAP"])
def test_every_explanation_names_itself(
    load: LoadEngine, write_radiograph: WriteRadiograph, method: str
) -> None:
    analysis = analyse(load("image_classifier", explanation=method), radiograph(write_radiograph))
    (heatmap,) = list(analysis.heatmaps.values())[:1]
    assert heatmap.method == method
    assert heatmap.values.max() > 0
