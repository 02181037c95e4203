"""Engines on a CUDA device: the numbers of the CPU, batches that shrink with the memory, a device that is lost."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer

from inference.engines import engine_class
from inference.errors import EngineMisconfigured
from inference.findings import Analysis
from inference.importing.imports import import_model
from inference.running.batches import in_batches
from inference.running.device import check_device
from inference.running.recorded import RecordedPasses
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import TorchvisionArchitecture
from inference.volumes.windows import sliding_window
from tests.inference.conftest import WriteRadiograph
from tests.inference.test_engine_contract import MODELS, analyse, radiograph, seeded_model
from tests.inference.test_volume_engines import TISSUES, analysed, head_series, lung_series
from tests.volume_models import add_ct_chest, bundle_folder, metastasis_checkpoint, nnunet_folder

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

SAME_PROBABILITY = 1e-4
SAME_HEAT = 0.02
"""Maps are scaled to their own range, so that small differences of the features grow."""


@pytest.fixture
def little_memory() -> Iterator[Callable[[int], None]]:
    """Leave this process so many bytes of the device's memory besides what it holds."""
    total = torch.cuda.get_device_properties(0).total_memory

    def limit(size: int) -> None:
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + size) / total)

    yield limit
    torch.cuda.set_per_process_memory_fraction(1.0)


def loaded(
    store: ModelStore, kind: str, model: str, device: str, precision: str = "auto", **options: Any
) -> Any:
    settings = EngineSettings(
        name="x", kind=kind, model=model, device=device, backend="torch", precision=precision, options=options
    )
    return engine_class(kind).load(settings, store)


def assert_same(ours: Analysis, reference: Analysis, tolerance: float = SAME_PROBABILITY) -> None:
    """The same findings, maps, nodules and masks."""
    assert ours.device.startswith("cuda:0 ")
    assert reference.device == "cpu"
    for a, b in zip(ours.findings, reference.findings, strict=True):
        assert a.label == b.label
        assert a.probability == pytest.approx(b.probability, abs=tolerance)
        assert a.individual_predictions == pytest.approx(b.individual_predictions, abs=tolerance)
        if b.heatmap is not None:
            assert a.heatmap is not None
            assert np.abs(a.heatmap.values - b.heatmap.values).mean() < SAME_HEAT
    assert (ours.detections is None) == (reference.detections is None)
    for c, d in zip(ours.detections or (), reference.detections or (), strict=True):
        assert c.centre == pytest.approx(d.centre, abs=0.1)
        assert c.malignancy == pytest.approx(d.malignancy, abs=1e-3)
    assert (ours.segmentation is None) == (reference.segmentation is None)
    if ours.segmentation is not None and reference.segmentation is not None:
        assert (ours.segmentation.labels != reference.segmentation.labels).mean() < 1e-3


def test_auto_takes_the_device_and_a_missing_one_is_named(store: ModelStore) -> None:
    engine = loaded(store, "chest_xray", "demo", "auto")
    assert engine.device == f"cuda:0 {torch.cuda.get_device_name(0)}"
    with pytest.raises(EngineMisconfigured, match="no device 'cuda:99'"):
        loaded(store, "chest_xray", "demo", "cuda:99")


@pytest.mark.parametrize("kind", MODELS)
def test_image_engines_agree_with_the_cpu(
    store: ModelStore, write_radiograph: WriteRadiograph, kind: str
) -> None:
    seeded_model(store, kind)
    path = radiograph(write_radiograph)
    ours, reference = (analyse(loaded(store, kind, "seeded", device), path) for device in ("cuda", "cpu"))
    assert_same(ours, reference)


@pytest.mark.parametrize(
    ("network", "method"),
    [
        ("resnet18", "Grad-CAM++"),
        ("resnet18", "Saliency"),
        pytest.param(
            "resnet18",
            "SHAP",
            marks=pytest.mark.skipif(find_spec("shap") is None, reason="shap is not installed"),
        ),
        ("efficientnet_b0", "Grad-CAM"),
        ("vit_b_16", "Grad-CAM"),
        ("vit_b_16", "Attention rollout"),
    ],
)
def test_explanations_agree_with_the_cpu(
    store: ModelStore, write_radiograph: WriteRadiograph, network: str, method: str
) -> None:
    seeded_model(
        store, "image_classifier", architecture=TorchvisionArchitecture.model_validate({"network": network})
    )
    path = radiograph(write_radiograph)
    ours, reference = (
        analyse(loaded(store, "image_classifier", "seeded", device, explanation=method), path)
        for device in ("cuda", "cpu")
    )
    assert_same(ours, reference)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_stays_close_or_is_refused(
    store: ModelStore, write_radiograph: WriteRadiograph, precision: str
) -> None:
    path = radiograph(write_radiograph)
    reference = analyse(loaded(store, "chest_xray", "demo", "cpu"), path)
    assert_same(analyse(loaded(store, "chest_xray", "demo", "cuda", precision), path), reference, 0.02)
    seeded_model(store, "chest_xray")
    try:
        reduced = analyse(loaded(store, "chest_xray", "seeded", "cuda", precision), path)
    except EngineMisconfigured as error:
        assert "use fp32" in str(error)
    else:
        assert_same(reduced, analyse(loaded(store, "chest_xray", "seeded", "cpu"), path), 0.02)


@pytest.mark.parametrize("precision", ["auto", "fp16", "bf16"])
def test_nodules_are_those_of_the_cpu_or_the_precision_is_refused(
    tmp_path: Path, store: ModelStore, precision: str
) -> None:
    _, paths = lung_series(tmp_path / "in", nodules=3)
    reference = analysed(loaded(store, "lung_nodule", "demo", "cpu"), paths)
    try:
        engine = loaded(store, "lung_nodule", "demo", "cuda", precision)
    except EngineMisconfigured as error:
        assert precision != "auto"
        assert "use fp32" in str(error)
        return
    ours = analysed(engine, paths)
    if precision == "auto":
        assert_same(ours, reference)
    else:
        assert ours.detections is not None and reference.detections is not None
        assert [d.voxel[0] for d in ours.detections] == [d.voxel[0] for d in reference.detections]


@pytest.mark.parametrize("kind", ["brain_metastasis", "hybrid_volume"])
def test_slices_are_judged_as_on_the_cpu(tmp_path: Path, store: ModelStore, kind: str) -> None:
    metastasis_checkpoint(tmp_path / "best.pth")
    import_model(store, tmp_path / "best.pth", name="seeded", trust=True)
    _, paths = head_series(tmp_path / "in")
    for model in ("demo", "seeded") if kind == "brain_metastasis" else ("demo",):
        ours, reference = (analysed(loaded(store, kind, model, device), paths) for device in ("cuda", "cpu"))
        assert_same(ours, reference)


def test_windows_of_the_chest_are_judged_as_on_the_cpu(tmp_path: Path, store: ModelStore) -> None:
    add_ct_chest(store, "seeded")
    _, paths = lung_series(tmp_path / "in", nodules=1)
    ours, reference = (
        analysed(loaded(store, "ct_chest", "seeded", device), paths) for device in ("cuda", "cpu")
    )
    assert_same(ours, reference)


def test_nnunet_agrees_with_the_cpu(tmp_path: Path, store: ModelStore) -> None:
    nnunet_folder(tmp_path / "results", {"background": 0, "brain": 1, "Hemorrhage": 2}, channel="CT")
    import_model(store, tmp_path / "results", name="mri", trust=True)
    _, paths = head_series(tmp_path / "in")
    ours, reference = (
        analysed(loaded(store, "brain_mri", "mri", device), paths) for device in ("cuda", "cpu")
    )
    assert_same(ours, reference)


@pytest.fixture
def bundle(tmp_path: Path, store: ModelStore) -> tuple[ModelStore, list[Path]]:
    """A bundle that segments, in a store, and a series for it."""
    bundle_folder(tmp_path / "bundle", TISSUES)
    import_model(store, tmp_path / "bundle", name="organs", trust=True)
    return store, lung_series(tmp_path / "in", nodules=1)[1]


def test_bundle_agrees_with_the_cpu(bundle: tuple[ModelStore, list[Path]]) -> None:
    store, paths = bundle
    ours, reference = (
        analysed(loaded(store, "monai_bundle", "organs", device), paths) for device in ("cuda", "cpu")
    )
    assert_same(ours, reference)


def test_maps_of_a_bundle_are_put_together_on_the_cpu_where_memory_is_short(
    bundle: tuple[ModelStore, list[Path]],
    little_memory: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = loaded(bundle[0], "monai_bundle", "organs", "cuda")
    image = torch.rand(1, 1, 256, 128, 128, generator=torch.Generator().manual_seed(1))

    def maps() -> torch.Tensor:
        inferer = SlidingWindowInferer(roi_size=(32, 32, 32), sw_batch_size=2, overlap=0.25)
        with torch.inference_mode():
            found: torch.Tensor = engine.run_inferer(inferer, image)
        return found.cpu()

    expected = maps()
    # The image alone has 16 MiB, the maps of three tissues 48 MiB.
    little_memory(40 * 2**20)
    found = maps()
    assert "device_memory_short" in caplog.text
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_windows_go_in_smaller_batches_where_memory_is_short(
    little_memory: Callable[[int], None], caplog: pytest.LogCaptureFixture
) -> None:
    convolution = torch.nn.Conv3d(1, 64, 3, padding=1).cuda().requires_grad_(False)
    volume = np.random.default_rng(1).random((64, 64, 256), dtype=np.float32)

    def predict(windows: torch.Tensor) -> torch.Tensor:
        means: torch.Tensor = convolution(windows).relu().mean(dim=1, keepdim=True)
        return means

    def maps() -> np.ndarray:
        size = (64, 64, 64)
        return sliding_window(
            volume, predict, patch=size, stride=(32, 32, 32), batch_size=8, channels=1, device="cuda"
        )

    expected = maps()
    # One window needs 64 channels of 1 MiB, and the same again for its rectified copy.
    little_memory(400 * 2**20)
    with caplog.at_level(logging.WARNING, "overread.inference"):
        found = maps()
    assert "device_memory_short" in caplog.text
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_input_that_is_too_large_alone_says_so(little_memory: Callable[[int], None]) -> None:
    little_memory(64 * 2**20)
    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches([1, 2], 2, lambda _: torch.ones(64 * 2**20, device="cuda")))
    check_device("cuda:0")


def test_recorded_passes_are_those_of_the_network() -> None:
    torch.manual_seed(1)
    network = torch.nn.Conv2d(3, 4, 3).cuda().requires_grad_(False)

    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = network(images)
        return maps, maps.mean(dim=(2, 3))

    recorded = RecordedPasses()
    batches = [torch.randn(size, 3, 32, 32, device="cuda") for size in (1, 8, 3, 9, 1, 8)]
    found = [recorded(run, batch) for batch in batches]
    for batch, results in zip(batches, found, strict=True):
        for ours, expected in zip(results, run(batch), strict=True):
            torch.testing.assert_close(ours, expected)
    assert sorted(shape[0] for shape in recorded._recordings) == [1, 3, 8]


def test_pass_that_waits_for_the_device_runs_unrecorded(caplog: pytest.LogCaptureFixture) -> None:
    def run(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = images.sum().item()
        return images, images + total

    recorded = RecordedPasses()
    for value in (1.0, 2.0):
        _, found = recorded(run, torch.full((1, 2), value, device="cuda"))
        assert found.tolist() == [[3 * value, 3 * value]]
    assert caplog.text.count("passes_not_recorded") == 1
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    check_device("cuda:0")


ASSERTION = """
import torch
from inference.running.device import check_device
from inference.errors import DeviceLost
check_device("cuda:0 a name")
try:
    torch.ones(4, device="cuda")[torch.tensor([9], device="cuda")].cpu()
except RuntimeError as error:
    print(type(error).__name__)
for _ in range(2):
    try:
        check_device("cuda:0 a name")
    except DeviceLost:
        print("lost")
"""


def test_failed_assertion_of_a_kernel_loses_the_device() -> None:
    done = subprocess.run([sys.executable, "-c", ASSERTION], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[1:] == ["lost", "lost"]
