"""nnU-Net models give the label maps of nnunetv2's own predictor, whatever their plans and checkpoints ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from inference.demo.volume_phantoms import SliceGeometry, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.errors import ModelInvalid
from inference.findings import Analysis
from inference.importing.imports import import_model
from inference.importing.nnunet import checkpoints, nnunet_model
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.draft import Draft
from inference.volumes.resampling import regular_grid
from inference.volumes.volume import read_series
from inference.volumes.windows import even_window_starts, window_weights
from tests.volume_models import nnunet_folder

LABELS = {"background": 0, "spleen": 1, "liver": 2, "kidney": 4, "aorta": 3}
AGREEMENT = 0.995

pytestmark = [
    pytest.mark.engine,
    pytest.mark.filterwarnings("ignore"),  # nnunetv2's dependencies, each about itself
]


def texture(shape: tuple[int, int, int], *, stripped: bool = False) -> NDArray[np.float64]:
    """Smooth whole values with contrast in every direction; ``stripped`` is 0 around a ball and in a hole of it."""
    random = np.random.default_rng(41)
    noise = sum(gaussian_filter(random.normal(0, 1, shape), s) * s * 90 for s in (1.0, 2.5))
    values: NDArray[np.float64] = np.rint(noise + np.linspace(-150, 300, shape[1])[None, :, None])
    if stripped:
        z, y, x = (np.linspace(-1.2, 1.3, n) for n in shape)
        radius = np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x[None, None, :] ** 2)
        values = np.where((radius < 0.9) & (radius > 0.2), values + 600, 0)
    return values


def sagittal(shape: tuple[int, int, int], spacing: tuple[float, float, float]) -> SliceGeometry:
    """Slices from the right to the left: rows go to the feet, columns to the back."""
    positions = np.zeros((shape[0], 3))
    positions[:, 0] = np.arange(shape[0]) * spacing[0] - 20
    return SliceGeometry(positions=positions, orientation=(0, 1, 0, 0, 0, -1), spacing=spacing[1:])


def run(store: ModelStore, model: str, paths: list[Path], **options: Any) -> Analysis:
    kind = store.get(model).card.kind
    settings = EngineSettings(name="x", kind=kind, model=model, device="cpu", options=options)
    loaded = engine_class(kind).load(settings, store)
    (analysis,) = loaded.infer(loaded.prepare(paths))
    return analysis


def our_labels(analysis: Analysis, paths: list[Path]) -> NDArray[np.integer]:
    """Label map on the slices in the order of the volume."""
    (volume,) = read_series(paths).volumes
    labels = np.zeros(volume.values.shape, dtype=np.uint16)
    assert analysis.segmentation is not None
    found = {
        i.sop_instance_uid: m
        for i, m in zip(analysis.segmentation.images, analysis.segmentation.labels, strict=True)
    }
    for target, frame in zip(labels, volume.frames, strict=True):
        target[:] = found.get(frame.source.sop_instance_uid, 0)
    return labels


def their_labels(folder: Path, paths: list[Path], scratch: Path, *, mirroring: bool) -> NDArray[np.integer]:
    """nnunetv2's label map of the series as a NIfTI file with the same axes, read and written by its reader."""
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    (volume,) = read_series(paths).volumes
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ regular_grid(volume).affine[:, [2, 1, 0, 3]]
    cells = np.asarray(volume.values, dtype=np.float32).transpose(2, 1, 0)
    image = nibabel.Nifti1Image(cells, affine)  # type: ignore[no-untyped-call]  # nibabel's own gap
    nibabel.save(image, scratch / "image.nii.gz")
    predictor = nnUNetPredictor(use_mirroring=mirroring, device=torch.device("cpu"), allow_tqdm=False)
    predictor.initialize_from_trained_model_folder(str(folder), use_folds=None)
    reader = predictor.plans_manager.image_reader_writer_class()
    values, properties = reader.read_images([str(scratch / "image.nii.gz")])
    labels = predictor.predict_single_npy_array(values, properties)
    reader.write_seg(labels, str(scratch / "labels.nii.gz"), properties)
    written = nibabel.load(scratch / "labels.nii.gz")
    assert isinstance(written, nibabel.Nifti1Image)
    return np.asarray(written.dataobj).transpose(2, 1, 0)


CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no_mirroring": ({}, {}),
    "mirroring_of_two_axes": ({"mirroring": (0, 2)}, {}),
    "mirroring_of_all_axes": ({"mirroring": (0, 1, 2)}, {}),
    "mirroring_switched_off": ({"mirroring": (0, 1, 2)}, {"tta": False}),
    "crop": ({}, {"stripped": True}),
    "crop_and_mask": ({"configuration": {"use_mask_for_norm": [True]}}, {"stripped": True}),
    "folds": ({"folds": ("fold_0", "fold_1", "fold_3", "fold_all"), "mirroring": (1,)}, {}),
    "windows": ({"configuration": {"patch_size": [8, 28, 20]}}, {"shape": (21, 53, 47)}),
    "smaller_than_a_window": ({}, {"shape": (6, 17, 30)}),
    "nibabel": ({"plans": {"image_reader_writer": "NibabelIO"}}, {"turned": True}),
    "nibabel_to_ras": ({"plans": {"image_reader_writer": "NibabelIOWithReorient"}}, {}),
    "sagittal_to_ras": ({"plans": {"image_reader_writer": "NibabelIOWithReorient"}}, {"turned": True}),
    "itk_to_ras": ({"plans": {"image_reader_writer": "SimpleITKIOWithReorient"}}, {"turned": True}),
    "transposed": ({"plans": {"transpose_forward": [1, 2, 0], "transpose_backward": [2, 0, 1]}}, {}),
    "one_coarse_axis": ({"spacing": (6.0, 1.5, 1.5)}, {"spacing": (4.0, 1.0, 1.0)}),
    "two_coarse_axes": ({"spacing": (0.8, 3.0, 3.0)}, {"spacing": (1.0, 4.0, 4.0)}),
    "coarse_in_the_plans_alone": ({"spacing": (6.5, 2.0, 2.0)}, {"spacing": (3.0, 2.2, 2.2)}),
    "ct": ({"configuration": {"normalization_schemes": ["CTNormalization"]}}, {}),
    "unit": ({"configuration": {"normalization_schemes": ["RescaleTo01Normalization"]}}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_label_map_is_nnunetv2s(tmp_path: Path, store: ModelStore, case: str) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not installed")
    model, image = CASES[case]
    spacing = image.get("spacing", (3.3, 2.6, 3.7))
    shape = image.get("shape", (18, 40, 36))
    geometry = (sagittal if image.get("turned") else straight_geometry)(shape, spacing)
    values = texture(shape, stripped=image.get("stripped", False))
    paths = write_ct_series(tmp_path / "in", values, geometry, body_part="ABDOMEN")
    nnunet_folder(tmp_path / "results", LABELS, channel="CT", **model)
    import_model(store, tmp_path / "results", name="seeded", trust=True)
    mirroring = image.get("tta", True)
    analysis = run(store, "seeded", paths, tta=mirroring)
    assert analysis.ensemble_size == (3 if case == "folds" else 1)
    assert analysis.tta_applied == (mirroring and "mirroring" in model)
    ours = our_labels(analysis, paths)
    theirs = their_labels(tmp_path / "results", paths, tmp_path, mirroring=mirroring)
    assert len(np.unique(theirs)) > 2
    assert (ours == theirs).mean() >= AGREEMENT


@pytest.mark.parametrize(("length", "patch"), [(8, 8), (9, 8), (13, 8), (53, 28), (100, 27), (31, 7)])
def test_windows_lie_where_nnunetv2_lays_them(length: int, patch: int) -> None:
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction", reason="not installed")
    expected = theirs.compute_steps_for_sliding_window((length,), (patch,), 0.5)
    assert even_window_starts(length, patch) == expected[0]


def test_windows_are_weighted_as_nnunetv2_weights_them() -> None:
    theirs = pytest.importorskip("nnunetv2.inference.sliding_window_prediction", reason="not installed")
    expected = theirs.compute_gaussian((8, 13, 20), dtype=torch.float32, device=torch.device("cpu"))
    assert window_weights((8, 13, 20), "nnunet") == pytest.approx(expected.numpy(), rel=1e-4)


def test_fold_of_all_cases_counts_only_alone(tmp_path: Path) -> None:
    for fold in ("fold_1", "fold_all"):
        (tmp_path / fold).mkdir()
        (tmp_path / fold / "checkpoint_final.pth").touch()
    assert [path.parent.name for path in checkpoints(tmp_path)] == ["fold_1"]
    (tmp_path / "fold_1" / "checkpoint_final.pth").unlink()
    assert [path.parent.name for path in checkpoints(tmp_path)] == ["fold_all"]


def drafted(folder: Path, *, kind: str | None = None, configuration: str = "3d_fullres") -> Draft:
    """The model that a results folder of one fold becomes."""
    checkpoint = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
    return nnunet_model(
        folder, [(checkpoint["network_weights"], {"configuration": configuration})], kind=kind
    )


@pytest.mark.parametrize(
    ("name", "labels", "kind"),
    [
        ("Dataset003_Liver", ["liver", "tumour"], "nnunet"),
        ("Dataset007_Pancreas", ["pancreas_head", "tumour", "duct"], "nnunet"),
        ("Dataset291_Total", ["brain", "spleen", "liver"], "nnunet"),
        ("Dataset001_BrainTumour", ["oedema", "tumour"], "brain_mri"),
        ("Dataset012_Head", ["csf"], "brain_mri"),
        ("Dataset012", ["Ischemic_Stroke", "Hemorrhage"], "brain_mri"),
    ],
)
def test_kind_is_what_the_data_set_speaks_of(tmp_path: Path, name: str, labels: list[str], kind: str) -> None:
    numbered = {"background": 0, **{label: n for n, label in enumerate(labels, start=1)}}
    nnunet_folder(tmp_path / "results", numbered, plans={"dataset_name": name})
    draft = drafted(tmp_path / "results")
    assert draft.kind == kind
    assert [label.name for label in draft.labels] == [
        n for n in labels if n in ("Ischemic_Stroke", "Hemorrhage")
    ]
    other = drafted(tmp_path / "results", kind="nnunet")
    assert (other.kind, other.labels) == ("nnunet", ())


@pytest.mark.parametrize(
    ("plans", "configuration", "said"),
    [
        ({"image_reader_writer": "Tiff3DIO"}, {}, "reads images by Tiff3DIO"),
        ({}, {"resampling_fn_data": "resample_torch_fornnunet"}, "resample by resample_torch_fornnunet"),
        (
            {},
            {"resampling_fn_probabilities_kwargs": {"order": 0}},
            "resample by resample_data_or_seg_to_shape",
        ),
        ({}, {"patch_size": [24, 24]}, "for slices"),
        ({}, {"previous_stage": "3d_lowres"}, "another model's result"),
    ],
)
def test_plans_that_would_be_followed_wrongly_are_refused(
    tmp_path: Path, plans: dict[str, Any], configuration: dict[str, Any], said: str
) -> None:
    nnunet_folder(tmp_path / "results", LABELS, plans=plans, configuration=configuration)
    with pytest.raises(ModelInvalid, match=said):
        drafted(tmp_path / "results")


def test_configuration_is_that_of_the_checkpoint_with_what_it_inherits(tmp_path: Path) -> None:
    nnunet_folder(tmp_path / "results", LABELS)
    plans = json.loads((tmp_path / "results" / "plans.json").read_text())
    plans["configurations"]["coarse"] = {"inherits_from": "3d_fullres", "spacing": [6, 6, 6]}
    (tmp_path / "results" / "plans.json").write_text(json.dumps(plans))
    draft = drafted(tmp_path / "results", configuration="coarse")
    assert draft.more["volume"].spacing == (6, 6, 6)


def test_voxels_that_training_ignored_are_no_structure(tmp_path: Path) -> None:
    nnunet_folder(tmp_path / "results", {"background": 0, "spleen": 1, "ignore": 2})
    assert [s.name for s in drafted(tmp_path / "results").more["structures"]] == ["spleen"]


def test_absent_structures_are_no_findings(tmp_path: Path, store: ModelStore) -> None:
    nnunet_folder(tmp_path / "results", LABELS, channel="CT")
    import_model(store, tmp_path / "results", name="seeded", trust=True)
    shape, spacing = (8, 24, 24), (4.0, 3.0, 3.0)
    paths = write_ct_series(
        tmp_path / "in", np.zeros(shape), straight_geometry(shape, spacing), body_part="ABDOMEN"
    )
    engine: Any = engine_class("nnunet").load(
        EngineSettings(name="x", kind="nnunet", model="seeded", device="cpu"), store
    )
    bias = engine.network.output_block.conv.conv.bias
    bias.data[0] = 1e3
    (analysis,) = engine.infer(engine.prepare(paths))
    assert (analysis.findings, analysis.segmentation) == ((), None)
