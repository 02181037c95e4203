"""The chest X-ray engine against torchxrayvision and pytorch-grad-cam themselves, with seeded weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchxrayvision as xrv
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torchvision.transforms import Compose

from inference.engines.chest_xray import ChestXrayEngine
from inference.errors import ModelAbsent
from inference.findings import Analysis, Presence, Refusal
from inference.headers import ImageHeader
from inference.importing.torchxrayvision import torchxrayvision_model
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.inference.conftest import WriteRadiograph
from tests.seeded import seeded_densenet

pytestmark = pytest.mark.engine

CR = "1.2.840.10008.5.1.4.1.1.1"


@pytest.fixture(scope="module")
def original() -> xrv.models.DenseNet:
    """torchxrayvision's own architecture with seeded weights, settled batch norms and operating points."""
    model = seeded_densenet(5)
    model.targets = model.pathologies = list(xrv.datasets.default_pathologies)
    model.op_threshs = torch.linspace(0.2, 0.8, 18)
    return model


@pytest.fixture(scope="module")
def engine(original: xrv.models.DenseNet, tmp_path_factory: pytest.TempPathFactory) -> ChestXrayEngine:
    """The engine with the same weights, taken in by the model store's importer."""
    tensors = {name: t for name, t in original.state_dict().items() if name != "op_threshs"}
    facts = {"targets": original.targets, "op_threshs": original.op_threshs.tolist()}
    store = ModelStore(tmp_path_factory.mktemp("models"))
    store.add(torchxrayvision_model(tensors, facts), "seeded", origin="test")
    return ChestXrayEngine.load(EngineSettings(name="cxr", kind="chest_xray", model="seeded"), store)


def reference_input(cells: np.ndarray, bits: int, *, inverted: bool = False) -> torch.Tensor:
    """What torchxrayvision's own steps make of stored values; one picture, shape (1, 1, 224, 224)."""
    values = (2**bits - 1) - cells if inverted else cells
    image = xrv.datasets.normalize(values.astype(np.float32), 2**bits - 1)[None]
    transform = Compose([xrv.datasets.XRayCenterCrop(), xrv.datasets.XRayResizer(224, engine="skimage")])
    return torch.from_numpy(transform(image).astype(np.float32))[None]


def analyse(engine: ChestXrayEngine, path: Path) -> Analysis:
    (case,) = engine.prepare([path])
    assert not isinstance(case, Refusal), case
    (analysis,) = engine.infer([case])
    return analysis


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "inverted"),
    [(600, 500, 12, False), (301, 420, 8, True), (1024, 1024, 16, False)],
)
def test_probabilities_equal_torchxrayvision(
    engine: ChestXrayEngine,
    original: xrv.models.DenseNet,
    write_radiograph: WriteRadiograph,
    rows: int,
    columns: int,
    bits: int,
    inverted: bool,
) -> None:
    random = np.random.default_rng(rows)
    smooth = np.add.outer(np.sin(np.arange(rows) / 40), np.cos(np.arange(columns) / 30)) * 0.2 + 0.5
    cells = ((smooth + random.normal(0, 0.02, (rows, columns))).clip(0, 1) * (2**bits - 1)).astype(
        np.uint8 if bits == 8 else np.uint16
    )
    path = write_radiograph(
        cells, BitsStored=bits, PhotometricInterpretation="MONOCHROME1" if inverted else "MONOCHROME2"
    )
    analysis = analyse(engine, path)
    with torch.no_grad():
        expected = original(reference_input(cells, bits, inverted=inverted))[0].numpy()
    ours = [finding.calibrated_probability for finding in analysis.findings]
    assert analysis.labels == tuple(original.targets)
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_real_radiographs_equal_torchxrayvision(
    engine: ChestXrayEngine, original: xrv.models.DenseNet, real_data: Path
) -> None:
    import pydicom

    path = real_data / "cxr" / "rsna_pa_jpeg_sc_class.dcm"
    analysis = analyse(engine, path)
    with torch.no_grad():
        expected = original(reference_input(pydicom.dcmread(path).pixel_array, 8))[0].numpy()
    np.testing.assert_allclose(
        [finding.calibrated_probability for finding in analysis.findings], expected, atol=1e-4
    )


def test_heat_maps_equal_pytorch_grad_cam(engine: ChestXrayEngine, original: xrv.models.DenseNet) -> None:
    torch.manual_seed(1)
    batch = torch.randn(3, 1, 224, 224) * 400
    classifier = engine.members[0].classifier
    classification = classifier.classify(batch.numpy())
    targets = [(row, output) for row in range(3) for output in range(18)]
    ours = np.stack(classifier.explain(classification, targets)).reshape(3, 18, 7, 7)

    class Head(torch.nn.Module):
        """What torchxrayvision does with its features, its last ReLU a module, so that it can be the target layer."""

        def __init__(self) -> None:
            super().__init__()
            self.classifier = original.classifier
            self.last = torch.nn.ReLU()

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.last(features).mean(dim=(2, 3)))
            return logits

    with torch.no_grad():
        features = original.features(batch)
    features.requires_grad_()
    reference = Head()
    with GradCAM(model=reference, target_layers=[reference.last]) as cam:
        # The maps are not to be enlarged to the size of the image.
        cam.get_target_width_height = lambda _images: (7, 7)
        for output in range(18):
            expected = cam(features, targets=[ClassifierOutputTarget(output)] * 3)
            np.testing.assert_allclose(ours[:, output], expected, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"ViewPosition": "LL"}, "no frontal view"),
        ({"BodyPartExamined": "HIP"}, "HIP"),
        ({"Modality": "CT"}, "CT"),
    ],
)
def test_lateral_views_and_other_body_parts_are_refused_with_the_reason(
    engine: ChestXrayEngine, write_radiograph: WriteRadiograph, attributes: dict[str, str], word: str
) -> None:
    path = write_radiograph(np.zeros((300, 300), np.uint8), **attributes)
    (refusal,) = engine.prepare([path])
    assert isinstance(refusal, Refusal)
    assert word.lower() in refusal.reason.lower()
    usual = {
        "Modality": "CR",
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "Rows": "300",
        "Columns": "300",
    }
    selection = ChestXrayEngine.select(
        [ImageHeader(sop_class_uid=CR, sop_instance_uid="1.2", attributes={**usual, **attributes})]
    )
    assert selection.inputs == ()
    assert word.lower() in selection.refused["1.2"].lower()


@pytest.mark.parametrize(
    ("label", "low", "high", "critical"),
    [
        ("Pneumonia", 0.15, 0.50, 0.75),
        ("Pneumothorax", 0.10, 0.40, 0.60),
        ("Cardiomegaly", 0.20, 0.55, 0.80),
        ("Mass", 0.20, 0.50, 0.75),
    ],
)
def test_thresholds_of_each_pathology(
    engine: ChestXrayEngine,
    write_radiograph: WriteRadiograph,
    label: str,
    low: float,
    high: float,
    critical: float,
) -> None:
    ramp = np.tile(np.linspace(0, 255, 300).astype(np.uint8), (300, 1))
    analysis = analyse(engine, write_radiograph(ramp))
    (finding,) = [f for f in analysis.findings if f.label.name == label]
    limits = finding.label.thresholds
    assert (limits.low, limits.high, limits.critical) == (low, high, critical)


def test_every_present_label_has_a_heat_map_and_at_least_the_top_one(
    engine: ChestXrayEngine, write_radiograph: WriteRadiograph
) -> None:
    random = np.random.default_rng(3)
    analysis = analyse(engine, write_radiograph(random.integers(0, 255, (300, 300)).astype(np.uint8)))
    present = {f.label.name for f in analysis.findings if f.presence is Presence.PRESENT}
    top = max(analysis.findings, key=lambda f: f.calibrated_probability).label.name
    assert set(analysis.heatmaps) == (present or {top})


def test_batch_gives_what_single_images_give(
    engine: ChestXrayEngine, write_radiograph: WriteRadiograph
) -> None:
    random = np.random.default_rng(4)
    paths = [write_radiograph(random.integers(0, 255, (300, 260)).astype(np.uint8)) for _ in range(3)]
    cases = [case for case in engine.prepare(paths) if not isinstance(case, Refusal)]
    together = engine.infer(cases)
    for path, analysis in zip(paths, together, strict=True):
        alone = analyse(engine, path)
        np.testing.assert_allclose(
            [f.probability for f in analysis.findings], [f.probability for f in alone.findings], atol=1e-5
        )


def test_absent_model_says_what_to_do(tmp_path: Path) -> None:
    settings = EngineSettings(name="cxr", kind="chest_xray", model="densenet121-res224-all")
    with pytest.raises(ModelAbsent, match="overread models pull densenet121-res224-all"):
        ChestXrayEngine.load(settings, ModelStore(tmp_path))


def test_serving_process_takes_no_pickle(tmp_path: Path) -> None:
    """Weights that are a pickle under the name of safetensors are refused, not run."""
    folder = tmp_path / "bad"
    folder.mkdir()
    torch.save({"features.conv0.weight": torch.zeros(1)}, folder / "weights.safetensors")
    demo = ModelStore(tmp_path).get("demo", "chest_xray")
    import hashlib

    digest = hashlib.sha256((folder / "weights.safetensors").read_bytes()).hexdigest()
    card = demo.card.model_copy(update={"name": "bad", "sha256": digest})
    (folder / "card.json").write_text(card.model_dump_json())
    with pytest.raises(Exception, match="do not fit"):
        ChestXrayEngine.load(EngineSettings(name="cxr", kind="chest_xray", model="bad"), ModelStore(tmp_path))
