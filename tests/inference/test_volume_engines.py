"""Every engine for volumes: its checkpoints import and give the original's numbers, and it finds what is planted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import highdicom
import numpy as np
import pydicom
import pytest
import torch
from monai.inferers.inferer import SlidingWindowInferer
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

from inference.demo.volume_phantoms import (
    head_phantom,
    lung_phantom,
    straight_geometry,
    write_ct_series,
)
from inference.engines import engine_class, engine_kinds
from inference.engines.nodule_options import NoduleOptions
from inference.engines.slice_wise import slice_name
from inference.errors import EngineMisconfigured, ModelAbsent, ModelInvalid, ModelUntrusted
from inference.findings import Analysis, Detection, Presence, Refusal, Severity
from inference.importing.imports import import_model
from inference.importing.metastasis import metastasis_model
from inference.networks.volumetric import dynunet, fill_dynunet
from inference.networks.weights import load_network, load_pivot
from inference.offline.output import case_document, stage_summary
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import NnunetArchitecture
from inference.store.card_parts import Temperature
from inference.volumes.volume import read_series
from sr_writer import ReportContext, write_results
from tests.volume_models import (
    add_ct_chest,
    bundle_folder,
    metastasis_checkpoint,
    nnunet_folder,
    pivot_checkpoint,
)

pytestmark = pytest.mark.engine

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
TISSUES = {"0": "background", "1": "spleen", "2": "kidney_left"}


def engine(store: ModelStore, kind: str, model: str, **options: Any) -> Any:
    return engine_on("torch", store, kind, model, **options)


def engine_on(backend: str, store: ModelStore, kind: str, model: str, **options: Any) -> Any:
    settings = EngineSettings(
        name="x", kind=kind, model=model, device="cpu", backend=backend, options=options
    )
    return engine_class(kind).load(settings, store)


def lung_series(folder: Path, seed: int = 10_000_003, **arguments: Any) -> tuple[Any, list[Path]]:
    phantom = lung_phantom(seed, (64, 110, 110), (1.25, 0.9, 0.9), **arguments)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    return phantom, write_ct_series(folder, phantom.values, geometry, body_part="CHEST")


def head_series(folder: Path, seed: int = 10_000_007, **arguments: Any) -> tuple[Any, list[Path]]:
    phantom = head_phantom(seed, size=128, **arguments)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    return phantom, write_ct_series(folder, phantom.values, geometry, body_part="HEAD")


def analysed(loaded: Any, paths: list[Path]) -> Analysis:
    (case,) = loaded.prepare(paths)
    assert not isinstance(case, Refusal), case
    analyses: list[Analysis] = loaded.infer([case])
    (analysis,) = analyses
    return analysis


def detected(analysis: Analysis) -> tuple[Detection, ...]:
    assert analysis.detections is not None
    return analysis.detections


def segmented(analysis: Analysis, folder: Path) -> tuple[highdicom.seg.Segmentation, Path]:
    objects = write_results([analysis], ReportContext(job_seed="seed", engine_name="x", content_datetime=NOW))
    (segmentation,) = [o.dataset for o in objects if o.kind == "segmentation"]
    path = folder / "segmentation.dcm"
    segmentation.save_as(path, enforce_file_format=True)
    return highdicom.seg.segread(path), path


# PIVOT


def transcribed_pivot(state: dict[str, Tensor], patches: Tensor) -> dict[str, Tensor]:
    """The nodule network written out from its checkpoint's layout."""

    def double(prefix: str, x: Tensor) -> Tensor:
        for conv, norm in ((0, 1), (3, 4)):
            name = f"{prefix}.conv.double_conv"
            x = functional.conv3d(x, state[f"{name}.{conv}.weight"], padding=1)
            x = functional.batch_norm(
                x,
                state[f"{name}.{norm}.running_mean"],
                state[f"{name}.{norm}.running_var"],
                state[f"{name}.{norm}.weight"],
                state[f"{name}.{norm}.bias"],
            ).relu()
        return x

    def point(name: str, x: Tensor) -> Tensor:
        return functional.conv3d(x, state[f"{name}.weight"], state[f"{name}.bias"])

    skips, x = [], patches
    for level in range(2):
        x = double(f"backbone.encoders.{level}", x)
        skips.append(x)
        x = functional.max_pool3d(x, 2)
    x = double("backbone.bottleneck", x)
    for level in range(2):
        name = f"backbone.decoders.{level}.upsample"
        x = functional.conv_transpose3d(x, state[f"{name}.weight"], state[f"{name}.bias"], stride=2)
        x = double(f"backbone.decoders.{level}", torch.cat([skips.pop(), x], dim=1))
    x = point("backbone.output_conv", x)
    return {
        "mask": point("segmentation_head.conv", x),
        "centre": point("center_head.conv", x),
        "size": point("size_head.conv", x).mean(dim=(2, 3, 4)),
        "triage": point("triage_head.conv", x).mean(dim=(2, 3, 4)),
    }


def test_pivot_checkpoint_gives_the_numbers_of_its_layout(tmp_path: Path, store: ModelStore) -> None:
    original = pivot_checkpoint(tmp_path / "best.ckpt")
    stored = import_model(store, tmp_path / "best.ckpt", name="pivot", trust=True)
    assert (stored.card.kind, stored.card.input_size) == ("lung_nodule", 128)
    patches = torch.rand(2, 1, 16, 16, 16)
    expected = transcribed_pivot(dict(original.state_dict()), patches)
    with torch.no_grad():
        found = load_pivot(stored).eval()(patches)
    for name, tensor in expected.items():
        assert getattr(found, name) == pytest.approx(tensor.detach(), abs=1e-4)


def test_pivot_network_takes_sizes_that_do_not_halve() -> None:
    from inference.networks.pivot import PivotNetwork

    output = PivotNetwork(init_features=2, depth=2).eval()(torch.rand(1, 1, 9, 10, 11))
    assert output.centre.shape == (1, 1, 9, 10, 11)


def test_planted_nodules_are_found_and_measured(tmp_path: Path, store: ModelStore) -> None:
    phantom, paths = lung_series(tmp_path / "in", nodules=3)
    analysis = analysed(engine(store, "lung_nodule", "demo"), paths)
    assert len(detected(analysis)) == len(phantom.nodules)
    first = np.array(pydicom.dcmread(paths[0]).ImagePositionPatient, dtype=float)
    for nodule in phantom.nodules:
        z, y, x = nodule.centre
        truth = first + np.array([x, y, z])
        nearest = min(detected(analysis), key=lambda d: float(np.linalg.norm(np.array(d.centre) - truth)))
        assert np.linalg.norm(np.array(nearest.centre) - truth) < 1.5
        assert nearest.diameter_mm == pytest.approx(nodule.diameter, rel=0.1)
        assert nearest.voxel[0] == pytest.approx(z / phantom.spacing[0], abs=1.01)
        assert 0 <= (nearest.malignancy or 0) <= 1
    assert analysis.findings[0].presence is Presence.PRESENT
    assert [image.detection for image in analysis.key_images] == [d.number for d in detected(analysis)]
    for detection, image in zip(detected(analysis), analysis.key_images, strict=True):
        shown = pydicom.dcmread(image.source.path, stop_before_pixels=True)
        named = f"nodule {detection.number}, image {shown.InstanceNumber}, z "
        assert image.title.startswith(named), image.title
    document = case_document(analysis, "x", tmp_path, [])
    assert document["heatmaps"]
    assert list(document["heatmaps"]) == document["labels"] == ["Lung nodule"]
    assert Path(document["heatmaps"]["Lung nodule"]).is_file()
    assert stage_summary([analysis])["heatmap_generated"]


def test_lung_without_nodules_is_reported_as_such(tmp_path: Path, store: ModelStore) -> None:
    _, paths = lung_series(tmp_path / "in", seed=10_000_011, nodules=0)
    analysis = analysed(engine(store, "lung_nodule", "demo"), paths)
    assert analysis.detections == ()
    assert analysis.segmentation is None
    assert analysis.findings[0].presence is not Presence.PRESENT
    document = case_document(analysis, "x", tmp_path, [])
    assert (document["overlay_available"], document["heatmaps"]) == (False, {})


def test_candidates_beyond_the_size_filter_are_named_and_not_present(
    tmp_path: Path, store: ModelStore
) -> None:
    phantom, paths = lung_series(tmp_path / "in", nodules=1)
    (nodule,) = phantom.nodules
    assert nodule.diameter > 8
    size = {"min_diameter": 3, "max_diameter": 8}
    large = analysed(engine(store, "lung_nodule", "demo", size_filter=size), paths)
    (finding,) = large.findings
    assert large.detections == ()
    assert finding.probability > finding.label.thresholds.critical
    assert finding.presence is Presence.INDETERMINATE
    assert finding.severity is Severity.LOW
    assert large.review_advised is not None
    assert large.review_advised.startswith("1 nodule candidate above 8 mm not reported because of the size")
    assert float(large.review_advised.split()[-1]) == pytest.approx(nodule.diameter, rel=0.1)
    assert finding.image is not None
    shown = int(pydicom.dcmread(finding.image.path).InstanceNumber) - 1
    assert shown == pytest.approx(nodule.centre[0] / phantom.spacing[0], abs=nodule.diameter / 4)
    size = {"min_diameter": 25, "max_diameter": 30}
    small = analysed(engine(store, "lung_nodule", "demo", size_filter=size), paths)
    assert small.review_advised is None
    assert small.findings[0].presence is Presence.INDETERMINATE
    assert any("1 nodule candidate below 25 mm not reported" in remark for remark in small.remarks)


def test_nodule_is_as_certain_as_the_best_one_reported(tmp_path: Path, store: ModelStore) -> None:
    phantom, paths = lung_series(tmp_path / "in", nodules=3)
    limit = max(nodule.diameter for nodule in phantom.nodules) - 1
    size = {"min_diameter": 3, "max_diameter": limit}
    analysis = analysed(engine(store, "lung_nodule", "demo", size_filter=size), paths)
    (finding,) = analysis.findings
    assert 0 < len(detected(analysis)) < len(phantom.nodules)
    assert finding.calibrated_probability == detected(analysis)[0].certainty
    assert finding.image is not None
    assert finding.image.sop_instance_uid == analysis.key_images[0].source.sop_instance_uid


def test_segmentation_of_nodules_lies_on_the_source_frames(tmp_path: Path, store: ModelStore) -> None:
    phantom, paths = lung_series(tmp_path / "in", nodules=2)
    analysis = analysed(engine(store, "lung_nodule", "demo"), paths)
    segmentation, _ = segmented(analysis, tmp_path)
    uids = [str(pydicom.dcmread(path, stop_before_pixels=True).SOPInstanceUID) for path in paths]
    pixels = segmentation.get_pixels_by_source_instance(
        source_sop_instance_uids=uids,
        combine_segments=True,
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    found, truth = pixels > 0, phantom.mask
    assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) > 0.85
    volume = found.sum() * float(np.prod(phantom.spacing))
    assert sum(d.volume_mm3 for d in detected(analysis)) == pytest.approx(volume, rel=0.03)


def test_whole_volume_and_augmented_windows_agree_with_plain_windows(
    tmp_path: Path, store: ModelStore
) -> None:
    phantom, paths = lung_series(tmp_path / "in", seed=10_000_005, nodules=1)
    plain = analysed(engine(store, "lung_nodule", "demo"), paths)
    for options in (
        {"mode": "whole_volume"},
        {"tta": {"enabled": True, "augmentations": ["flip_x", "flip_z"]}},
        {"blending": {"method": "linear"}},
    ):
        other = analysed(engine(store, "lung_nodule", "demo", **options), paths)
        assert len(phantom.nodules) == 1
        one, two = detected(plain)[0], detected(other)[0]
        assert np.linalg.norm(np.array(one.centre) - np.array(two.centre)) < 1.5


def test_thick_slices_and_wrong_options_are_refused(tmp_path: Path, store: ModelStore) -> None:
    phantom = lung_phantom(1, (10, 40, 40), (8.0, 1.0, 1.0))
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    paths = write_ct_series(tmp_path / "in", phantom.values, geometry, body_part="CHEST")
    loaded = engine(store, "lung_nodule", "demo")
    (refusal,) = loaded.prepare(paths)
    assert refusal.reason == "slices 8.0 mm apart are too thick for nodules; at most 5 mm"
    with pytest.raises(EngineMisconfigured, match=r"peak_detection\.threshold"):
        engine(store, "lung_nodule", "demo", peak_detection={"threshold": 2})
    with pytest.raises(EngineMisconfigured, match="no option 'colour'"):
        engine(store, "lung_nodule", "demo", colour="red")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"peak_detection": {"kernel": 4}},
            r"options\.peak_detection\.kernel: the kernel has to be odd, not 4",
        ),
        ({"padding": "none"}, r"options\.padding"),
    ],
)
def test_options_that_cannot_be_met_are_refused(options: dict[str, Any], reason: str) -> None:
    settings = EngineSettings(name="x", kind="lung_nodule", model="demo", options=options)
    with pytest.raises(EngineMisconfigured, match=reason):
        settings.checked(NoduleOptions)


def test_first_augmentations_are_used() -> None:
    options = {"tta": {"enabled": True, "num_augmentations": 2}}
    settings = EngineSettings(name="x", kind="lung_nodule", model="demo", options=options)
    assert settings.checked(NoduleOptions).tta.chosen == ("flip_x", "flip_y")


def test_every_way_to_peaks_and_padding_finds_the_nodule(tmp_path: Path, store: ModelStore) -> None:
    phantom, paths = lung_series(tmp_path / "in", seed=10_000_005, nodules=1)
    (nodule,) = phantom.nodules
    for options in (
        {"peak_detection": {"method": "nms"}, "padding": "stride"},
        {"peak_detection": {"method": "maximum_filter", "kernel": 3}, "components": "whole"},
    ):
        first = detected(analysed(engine(store, "lung_nodule", "demo", **options), paths))[0]
        assert first.diameter_mm == pytest.approx(nodule.diameter, rel=0.15)


@pytest.mark.parametrize("kind", ["lung_nodule", "ct_chest"])
def test_network_sees_the_normalisation_of_its_card(tmp_path: Path, store: ModelStore, kind: str) -> None:
    add_ct_chest(store, "chest")
    _, paths = lung_series(tmp_path / "in", nodules=0)
    loaded = engine(store, kind, "demo" if kind == "lung_nodule" else "chest")
    wanted = loaded.card.volume.model_copy(update={"normalisation": "zscore"})
    loaded.card = loaded.card.model_copy(update={"volume": wanted})
    results: Callable[[Tensor], Any] = loaded.results
    seen: list[Tensor] = []

    def noted(windows: Tensor) -> Any:
        seen.append(windows)
        return results(windows)

    loaded.results = noted
    analysed(loaded, paths)
    windows = torch.cat(seen)
    assert windows.min() < -0.5 and windows.max() > 1


# Brain metastases


def test_slices_are_named_as_a_reader_finds_them(tmp_path: Path) -> None:
    values = np.zeros((4, 16, 16))
    geometry = straight_geometry(values.shape, (2.5, 1.0, 1.0))
    paths = write_ct_series(tmp_path / "in", values, geometry, body_part="HEAD")
    for number, path in enumerate(reversed(paths), start=11):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number
        dataset.save_as(path)
    (volume,) = read_series(paths).volumes
    assert [slice_name(volume, number) for number in range(4)] == [
        "image 14, z -3.8 mm",
        "image 13, z -1.2 mm",
        "image 12, z 1.2 mm",
        "image 11, z 3.8 mm",
    ]

    def named(**fields: Any) -> str:
        frames = tuple(replace(frame, **fields) for frame in volume.frames)
        return slice_name(replace(volume, stack=replace(volume.stack, frames=frames)), 1)

    first = volume.frames[1]
    assert named(instance_number=0) == "slice 2 of 4, z -1.2 mm"
    assert named(source=replace(first.source, frame=7)) == "frame 7, z -1.2 mm"
    assert named(rows=8, columns=8) == "slice 2 of 4, z -1.2 mm"
    tilted = replace(first.plane, column_direction=(0.0, 0.94, -0.342))
    assert named(plane=tilted) == "image 13"


def test_metastasis_checkpoint_gives_the_numbers_of_its_layout(tmp_path: Path, store: ModelStore) -> None:
    original = metastasis_checkpoint(tmp_path / "best.pth")
    stored = import_model(store, tmp_path / "best.pth", name="brain", trust=True)
    assert stored.card.kind == "brain_metastasis"
    assert not any(name.startswith("layer3") for name in load_file(stored.weights))
    slices = torch.randn(3, 1, 64, 64)
    state = dict(original.state_dict())
    pooled = original.backbone(slices).flatten(1)
    hidden = functional.linear(pooled, state["classifier.0.weight"], state["classifier.0.bias"]).relu()
    expected = functional.linear(hidden, state["classifier.3.weight"], state["classifier.3.bias"])
    with torch.no_grad():
        found = load_network(stored).eval()(slices)
    assert found == pytest.approx(expected.detach(), abs=1e-4)


def test_first_convolution_for_colours_is_averaged() -> None:
    weight = torch.rand(64, 3, 7, 7)
    taken = metastasis_model({"backbone.0.weight": weight}, {}).tensors["backbone.0.weight"]
    assert torch.allclose(taken[:, 0], (weight[:, 0] + weight[:, 1] + weight[:, 2]) / 3)


def test_patient_is_as_likely_as_the_worst_slice(tmp_path: Path, store: ModelStore) -> None:
    metastasis_checkpoint(tmp_path / "best.pth")
    import_model(store, tmp_path / "best.pth", name="brain", trust=True)
    _, paths = head_series(tmp_path / "in")
    finding = analysed(engine(store, "brain_metastasis", "brain"), paths).findings[0]
    assert finding.probability == pytest.approx(max(finding.individual_predictions))


@pytest.mark.parametrize("lesion", [True, False])
@pytest.mark.parametrize("kind", ["brain_metastasis", "hybrid_volume"])
def test_lesions_of_a_head_are_found_on_their_slices(
    tmp_path: Path, store: ModelStore, kind: str, lesion: bool
) -> None:
    phantom, paths = head_series(tmp_path / "in", lesion=lesion, haemorrhage=False)
    analysis = analysed(engine(store, kind, "demo"), paths)
    finding = analysis.findings[0]
    assert (finding.presence is Presence.PRESENT) == lesion
    if lesion:
        uids = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
        shown = {uids[i] for i in np.flatnonzero(phantom.lesion)}
        assert analysis.key_images[0].source.sop_instance_uid in shown
        assert analysis.key_images[0].title.startswith("image ")
        assert finding.image is not None and finding.image.sop_instance_uid in shown


def add_hybrid(
    store: ModelStore,
    aggregator: str,
    mean_of: str = "predictions",
    names: Sequence[str] = "ab",
    activation: Literal["sigmoid", "softmax"] = "sigmoid",
) -> None:
    """A small hybrid model with two labels."""
    from inference.networks.aggregation import AttentionPool, LstmAggregator, TransformerAggregator
    from inference.networks.densenet import DenseNet
    from inference.store.architectures import DenseNetArchitecture, HybridArchitecture
    from inference.store.card_parts import CardLabel, Thresholds, VolumePreprocessing
    from inference.store.draft import Draft

    torch.manual_seed(3)
    sizes: dict[str, Any] = {"block_config": (1, 1), "growth_rate": 4, "init_features": 4, "bottleneck": 2}
    backbone = DenseNet(**sizes, input_channels=3, outputs=2)
    features = backbone.classifier.in_features
    tensors = {f"backbone.{k}": v for k, v in backbone.state_dict().items()}
    learned: dict[str, torch.nn.Module] = {
        "attention": AttentionPool(features),
        "lstm": LstmAggregator(features, 2),
        "transformer": TransformerAggregator(features, 2),
    }
    if aggregator in learned:
        tensors |= {f"aggregator.{k}": v for k, v in learned[aggregator].state_dict().items()}
    store.add(
        Draft(
            tensors=tensors,
            kind="hybrid_volume",
            version="1",
            manufacturer="overread tests",
            licence="none",
            input_size=32,
            input_channels=3,
            architecture=HybridArchitecture.model_validate(
                {
                    "backbone": DenseNetArchitecture(**sizes),
                    "aggregator": aggregator,
                    "mean_of": mean_of,
                }
            ),
            labels=tuple(
                CardLabel(name=n, thresholds=Thresholds(low=0.2, high=0.5, critical=0.9)) for n in names
            ),
            activation=activation,
            more={"volume": VolumePreprocessing(low=0, high=80)},
        ),
        "hybrid",
        origin="test",
    )


@pytest.mark.parametrize(
    ("aggregator", "mean_of"),
    [
        ("max", "predictions"),
        ("mean", "predictions"),
        ("mean", "logits"),
        ("noisy_or", "predictions"),
        ("attention", "predictions"),
        ("lstm", "predictions"),
        ("transformer", "predictions"),
    ],
)
def test_every_aggregator_runs_in_the_hybrid_engine(
    tmp_path: Path, store: ModelStore, aggregator: str, mean_of: str
) -> None:
    add_hybrid(store, aggregator, mean_of)
    _, paths = head_series(tmp_path / "in")
    loaded = engine(store, "hybrid_volume", "hybrid")
    analysis = analysed(loaded, paths)
    by_slice = np.array([f.individual_predictions for f in analysis.findings]).T
    volume = np.array([f.probability for f in analysis.findings])
    if aggregator == "max":
        assert volume == pytest.approx(by_slice.max(axis=0), abs=1e-6)
    if aggregator == "noisy_or":
        assert volume == pytest.approx(1 - np.prod(1 - by_slice, axis=0), abs=1e-5)
    if (aggregator, mean_of) == ("mean", "predictions"):
        assert volume == pytest.approx(by_slice.mean(axis=0), abs=1e-6)
    if aggregator == "attention":
        slices = loaded.prepare(paths)[0].inputs
        with torch.no_grad():
            _, _, described = loaded.hybrid.describe(
                torch.from_numpy(loaded.stacks(slices, range(len(slices))))
            )
            weights = loaded.hybrid.aggregator(described).numpy()
        assert volume == pytest.approx((by_slice * weights).sum(axis=0), abs=1e-6)
    if mean_of == "logits":
        logits = np.log(by_slice / (1 - by_slice)).mean(axis=0)
        assert volume == pytest.approx(1 / (1 + np.exp(-logits)), abs=1e-5)


# nnU-Net


def test_nnunet_checkpoint_gives_the_numbers_of_its_own_network(tmp_path: Path, store: ModelStore) -> None:
    original = nnunet_folder(tmp_path / "results", {"background": 0, "brain": 1, "Hemorrhage": 2})
    stored = import_model(store, tmp_path / "results", name="mri", trust=True)
    assert stored.card.kind == "brain_mri"
    assert [s.name for s in stored.card.structures] == ["brain", "Hemorrhage"]
    assert [label.name for label in stored.card.labels] == ["Hemorrhage"]
    assert stored.card.labels[0].as_finding().thresholds.critical == 0.65
    architecture = stored.card.architecture
    assert isinstance(architecture, NnunetArchitecture)
    ours = dynunet(architecture, 3).eval()
    fill_dynunet(ours, load_file(stored.weights))
    patch = torch.randn(1, 1, 8, 24, 24)
    with torch.no_grad():
        original.decoder.deep_supervision = False
        assert ours(patch) == pytest.approx(original(patch), abs=1e-4)


def test_nnunet_labels_of_the_table_are_findings_however_they_are_spelt(
    tmp_path: Path, store: ModelStore
) -> None:
    nnunet_folder(
        tmp_path / "results", {"background": 0, "ischemic-stroke": 1, "ventricles": 2, "hemorrhage": 3}
    )
    stored = import_model(store, tmp_path / "results", name="mri", trust=True)
    labels = [label.as_finding() for label in stored.card.labels]
    assert [(label.name, label.thresholds.critical) for label in labels] == [
        ("ischemic-stroke", 0.70),
        ("hemorrhage", 0.65),
    ]


def test_nnunet_segments_an_mr_series(tmp_path: Path, store: ModelStore, real_data: Path) -> None:
    nnunet_folder(tmp_path / "results", {"background": 0, "brain": 1, "Hemorrhage": 2})
    import_model(store, tmp_path / "results", name="mri", trust=True)
    loaded = engine(store, "brain_mri", "mri", tta=False)
    files = sorted((real_data / "mr_brain_siemens").glob("epi_pe_ap-*.dcm"))
    cases = loaded.prepare(files)
    assert len(cases) == 2
    analysis = loaded.infer(cases)[0]
    assert analysis.segmentation is not None
    assert analysis.segmentation.labels.shape == (1, 216, 216)
    assert [f.label.name for f in analysis.findings] == ["Hemorrhage"]


def test_plans_for_several_series_or_regions_are_refused(tmp_path: Path, store: ModelStore) -> None:
    nnunet_folder(tmp_path / "results", {"background": 0, "brain": 1})
    dataset = json.loads((tmp_path / "results" / "dataset.json").read_text())
    dataset["channel_names"] = {"0": "T1", "1": "T2"}
    (tmp_path / "results" / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(ModelInvalid, match="several series"):
        import_model(store, tmp_path / "results", name="mri", trust=True)


# MONAI bundles


@pytest.mark.parametrize("kind", ["monai_bundle", "whole_body_ct"])
def test_bundle_runs_its_own_steps_on_our_volume(tmp_path: Path, store: ModelStore, kind: str) -> None:
    network = bundle_folder(tmp_path / "bundle", TISSUES)
    stored = import_model(store, tmp_path / "bundle", name="bundle", kind=kind, trust=True)
    assert [(s.value, s.name, s.type and s.type.meaning) for s in stored.card.structures] == [
        (1, "spleen", "Spleen"),
        (2, "kidney left", "Kidney"),
    ]
    _, paths = lung_series(tmp_path / "in")
    loaded = engine(store, kind, "bundle")
    analysis = analysed(loaded, paths)
    for name, parameter in network.state_dict().items():
        assert torch.equal(loaded.network.state_dict()[name], parameter)
    assert analysis.findings == ()
    assert analysis.segmentation is not None
    segmentation, _ = segmented(analysis, tmp_path)
    assert segmentation.number_of_segments == len(analysis.segmentation.structures)


def test_bundle_result_lies_where_its_input_lay(tmp_path: Path, store: ModelStore) -> None:
    """A bundle that answers 1 where the image is bright gives that place back on the slices."""
    bundle_folder(tmp_path / "bundle", {"0": "background", "1": "spleen"})
    import_model(store, tmp_path / "bundle", name="bundle", trust=True)
    values = np.full((40, 60, 70), -1000.0)
    values[10:20, 12:30, 40:60] = 200
    geometry = straight_geometry((40, 60, 70), (2.0, 1.5, 1.25))
    paths = write_ct_series(tmp_path / "in", values, geometry, body_part="ABDOMEN")
    loaded = engine(store, "monai_bundle", "bundle")

    class Bright(torch.nn.Module):
        def forward(self, windows: Tensor) -> Tensor:
            return torch.cat([-windows, windows], dim=1)

    bright = Bright()
    bright.bundle_config = loaded.network.bundle_config
    loaded.network = bright
    analysis = analysed(loaded, paths)
    assert analysis.segmentation is not None
    uids = [image.sop_instance_uid for image in analysis.segmentation.images]
    labels = dict(zip(uids, analysis.segmentation.labels, strict=True))
    order = [str(pydicom.dcmread(path).SOPInstanceUID) for path in paths]
    found = np.stack([labels.get(uid, np.zeros((60, 70))) for uid in order]) > 0
    truth = values > 0
    # At the bundle's 3 mm the edge is a little further out, on all sides alike.
    assert (found | ~truth).all()
    assert np.argwhere(found).mean(axis=0) == pytest.approx(np.argwhere(truth).mean(axis=0), abs=0.5)


def test_maps_of_a_bundle_that_do_not_fit_on_the_device_are_put_together_on_the_cpu(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_folder(tmp_path / "bundle", TISSUES)
    import_model(store, tmp_path / "bundle", name="bundle", trust=True)
    _, paths = lung_series(tmp_path / "in")
    loaded = engine(store, "monai_bundle", "bundle")
    expected = analysed(loaded, paths).segmentation
    whole = SlidingWindowInferer.__call__

    def short_of_memory(self: SlidingWindowInferer, *arguments: Any) -> Tensor:
        if self.device is None:
            raise torch.OutOfMemoryError("CUDA out of memory")
        found = whole(self, *arguments)
        assert isinstance(found, Tensor)
        return found

    monkeypatch.setattr(SlidingWindowInferer, "__call__", short_of_memory)
    found = analysed(loaded, paths).segmentation
    assert found is not None and expected is not None
    np.testing.assert_array_equal(found.labels, expected.labels)


def test_bundle_that_classifies_applies_the_calibration_of_its_card(
    tmp_path: Path, store: ModelStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle_folder(tmp_path / "bundle", TISSUES)
    file = import_model(store, tmp_path / "bundle", name="bundle", trust=True).weights.with_name("card.json")
    limits = {"low": 0.2, "high": 0.5, "critical": 0.8}
    changes = {
        "architecture": {"family": "bundle", "output": "classification", "code_allowed": True},
        "labels": [{"name": "Normal", "thresholds": limits}, {"name": "Tumour", "thresholds": limits}],
        "structures": [],
        "activation": "softmax",
        "calibration": {"method": "temperature", "temperature": 2.0},
    }
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    loaded = engine(store, "monai_bundle", "bundle")
    monkeypatch.setattr(loaded, "_run_bundle", lambda values, grid: np.array([3.0, 1.0]))
    analysis = analysed(loaded, head_series(tmp_path / "in")[1])
    assert analysis.labels == ("Tumour",)
    (finding,) = analysis.findings
    assert finding.probability == pytest.approx(1 / (1 + np.exp(2.0)), abs=1e-6)
    assert finding.calibrated_probability == pytest.approx(1 / (1 + np.exp(1.0)), abs=1e-6)


def test_calibration_that_an_engine_cannot_apply_is_refused(store: ModelStore) -> None:
    demo = store.get("demo", "lung_nodule")
    folder = store.folder / "nodules"
    shutil.copytree(demo.weights.parent, folder)
    store.set_calibration("nodules", Temperature(temperature=2.0))
    with pytest.raises(ModelInvalid, match="has a calibration, which lung_nodule engines cannot apply"):
        engine(store, "lung_nodule", "nodules")


def test_bundle_with_code_runs_only_when_its_card_allows(tmp_path: Path, store: ModelStore) -> None:
    bundle_folder(tmp_path / "bundle", TISSUES)
    file = tmp_path / "bundle" / "configs" / "inference.json"
    config = json.loads(file.read_text())
    config["inferer"]["overlap"] = "$__import__('os').getpid() * 0 + 0.25"
    file.write_text(json.dumps(config))
    with pytest.raises(ModelUntrusted):
        import_model(store, tmp_path / "bundle", name="bundle")
    stored = import_model(store, tmp_path / "bundle", name="bundle", trust=True)
    card = json.loads((stored.weights.parent / "card.json").read_text())
    assert card["architecture"]["code_allowed"] is True
    card["architecture"]["code_allowed"] = False
    (stored.weights.parent / "card.json").write_text(json.dumps(card))
    with pytest.raises(ModelUntrusted, match="runs code that its card does not allow"):
        engine(store, "monai_bundle", "bundle")


def test_changed_configuration_of_a_bundle_is_noticed(tmp_path: Path, store: ModelStore) -> None:
    bundle_folder(tmp_path / "bundle", TISSUES)
    stored = import_model(store, tmp_path / "bundle", name="bundle", trust=True)
    (stored.weights.parent / "inference.json").write_text("{}")
    with pytest.raises(ModelInvalid, match="not those of its card"):
        store.get("bundle")


def test_bundle_that_detects_is_refused_with_the_reason(tmp_path: Path, store: ModelStore) -> None:
    bundle_folder(tmp_path / "bundle", TISSUES)
    file = tmp_path / "bundle" / "configs" / "metadata.json"
    metadata = json.loads(file.read_text())
    metadata["network_data_format"]["outputs"]["pred"] |= {"type": "object", "format": "dict"}
    file.write_text(json.dumps(metadata))
    with pytest.raises(ModelInvalid, match="is not supported"):
        import_model(store, tmp_path / "bundle", name="bundle", trust=True)


# ct_chest and what all have in common


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_no_volume_shows_a_class_for_nothing_found(
    tmp_path: Path, store: ModelStore, activation: Literal["sigmoid", "softmax"]
) -> None:
    add_hybrid(store, "mean", names=("No_Finding", "Bleeding"), activation=activation)
    _, paths = head_series(tmp_path / "in")
    analysis = analysed(engine(store, "hybrid_volume", "hybrid"), paths)
    assert analysis.labels == ("Bleeding",)
    assert {image.label.name for image in analysis.key_images} == {"Bleeding"}
    assert analysis.absence is not None and analysis.absence.name == "No_Finding"
    assert (analysis.prediction is None) == (activation == "sigmoid")


def test_ct_chest_gives_labels_and_a_mask(tmp_path: Path, store: ModelStore) -> None:
    add_ct_chest(store, "chest")
    _, paths = lung_series(tmp_path / "in")
    analysis = analysed(engine(store, "ct_chest", "chest"), paths)
    assert [f.label.name for f in analysis.findings] == ["Nodule", "Pulmonary_Embolism"]


def test_ct_chest_finds_no_class_for_nothing_found(tmp_path: Path, store: ModelStore) -> None:
    add_ct_chest(store, "chest", ("Normal", "Pulmonary_Embolism"))
    _, paths = lung_series(tmp_path / "in")
    analysis = analysed(engine(store, "ct_chest", "chest"), paths)
    assert analysis.labels == ("Pulmonary_Embolism",)
    assert analysis.absence is not None and analysis.absence.name == "Normal"


# OpenVINO


def test_nodules_by_openvino_are_those_of_torch(tmp_path: Path, store: ModelStore) -> None:
    compiled, reference = (
        engine_on("auto", store, "lung_nodule", "demo"),
        engine(store, "lung_nodule", "demo"),
    )
    assert compiled.compiled is not None
    windows = torch.rand(5, 1, 48, 48, 48)
    for ours, theirs in zip(compiled.results(windows), reference.results(windows), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)
    odd = torch.rand(1, 1, 24, 24, 24)  # not the model's window: by torch
    torch.testing.assert_close(compiled.results(odd)[0], reference.results(odd)[0], atol=1e-4, rtol=0)
    _, paths = lung_series(tmp_path / "in", nodules=2)
    ours, theirs = analysed(compiled, paths), analysed(reference, paths)
    assert [d.voxel for d in detected(ours)] == [d.voxel for d in detected(theirs)] != []
    for one, other in zip(detected(ours), detected(theirs), strict=True):
        assert one.certainty == pytest.approx(other.certainty, abs=1e-4)
        assert one.malignancy == pytest.approx(other.malignancy, abs=1e-4)
        assert one.diameter_mm == pytest.approx(other.diameter_mm, abs=0.05)
    assert ours.volume is not None and ours.volume.data is not None
    assert theirs.volume is not None and theirs.volume.data is not None
    np.testing.assert_allclose(ours.volume.data.heat, theirs.volume.data.heat, atol=1e-4)


@pytest.mark.parametrize("kind", ["brain_metastasis", "hybrid_volume"])
def test_other_kinds_do_not_run_by_openvino(store: ModelStore, kind: str) -> None:
    with pytest.raises(EngineMisconfigured, match=f"{kind} runs on backend torch only"):
        engine_on("openvino", store, kind, "demo")


VOLUME_KINDS = (
    "lung_nodule",
    "brain_metastasis",
    "hybrid_volume",
    "ct_chest",
    "nnunet",
    "brain_mri",
    "monai_bundle",
    "whole_body_ct",
)


def test_every_volume_kind_is_tested_here() -> None:
    assert {kind for kind in engine_kinds() if engine_class(kind).takes_series} == set(VOLUME_KINDS)


@pytest.mark.parametrize("kind", VOLUME_KINDS)
def test_kind_refuses_what_is_no_volume_for_it(tmp_path: Path, store: ModelStore, kind: str) -> None:
    from inference.headers import ImageHeader

    radiograph = ImageHeader(
        sop_class_uid="1.2", sop_instance_uid="1", attributes={"Modality": "CR", "ImageType": ["ORIGINAL"]}
    )
    selection = engine_class(kind).select([radiograph])
    assert selection.inputs == ()
    assert "not CR" in selection.refused["1"]
    if kind not in ("lung_nodule", "brain_metastasis", "hybrid_volume"):
        with pytest.raises(ModelAbsent, match="no demonstration model"):
            engine(store, kind, "demo")
