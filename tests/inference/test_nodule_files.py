"""The files about nodules have the schema of their document and lie on the grid of the series."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image

from inference.demo.volume_phantoms import lung_phantom, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.engines.lung_nodule import LungNoduleEngine
from inference.engines.volume_case import VolumeCase
from inference.findings import Analysis
from inference.offline.nodule_files import write_nodule_files
from inference.settings import EngineSettings
from inference.store import ModelStore

pytestmark = pytest.mark.engine

Written = tuple[Path, list[Path], Analysis]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("nodules")
    phantom = lung_phantom(10_000_003, (48, 100, 110), (1.5, 0.9, 0.8), nodules=2)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    series = write_ct_series(folder / "in", phantom.values, geometry, body_part="CHEST")
    settings = EngineSettings(name="x", kind="lung_nodule", model="demo", device="cpu", backend="torch")
    engine = engine_class("lung_nodule").load(settings, ModelStore(folder / "models"))
    (analysis,) = engine.infer(engine.prepare(series))
    assert analysis.detections
    write_nodule_files(analysis, folder)
    return folder, series, analysis


def test_detections_have_the_schema(written: Written) -> None:
    folder, _, analysis = written
    document = json.loads((folder / "scan_detections.json").read_text())
    assert set(document) == {"scan_id", "model", "timestamp", "metadata", "detections", "summary"}
    assert document["metadata"] == {"spacing": [0.8, 0.9, 1.5], "shape": [110, 100, 48]}
    assert set(document["summary"]) == {
        "num_detections",
        "high_risk_count",
        "low_risk_count",
        "processing_time_seconds",
    }
    assert analysis.detections is not None
    for number, detection in enumerate(document["detections"]):
        assert detection["id"] == number
        assert set(detection["properties"]) >= {"volume_mm3", "mean_intensity", "std_intensity"}
        along = analysis.detections[number].diameters_mm
        assert detection["properties"]["diameters_mm"] == [round(length, 2) for length in reversed(along)]
        assert detection["properties"]["volume_mm3"] < np.prod(along)
        assert set(detection["triage"]) == {"malignancy_score", "risk_category"}
        in_voxels = np.array(detection["coordinates"]) / document["metadata"]["spacing"]
        assert np.abs(in_voxels - detection["coordinates_voxel"]).max() < 0.6
    with (folder / "scan_detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == document["summary"]["num_detections"]
    assert list(rows[0])[:6] == ["scan_id", "detection_id", "coord_x", "coord_y", "coord_z", "diameter_mm"]


def test_heat_map_lies_on_the_series(written: Written) -> None:
    folder, series, _ = written
    heat = nibabel.load(folder / "scan_heatmap.nii.gz")
    assert isinstance(heat, nibabel.Nifti1Image)
    assert heat.shape == (110, 100, 48)
    values = np.asarray(heat.dataobj)
    assert 0 <= values.min() and 0.5 < values.max() <= 1
    x, y, z = (float(value) for value in pydicom.dcmread(series[0]).ImagePositionPatient)
    assert heat.affine @ [0, 0, 0, 1] == pytest.approx([-x, -y, z, 1], abs=1e-3)
    document = json.loads((folder / "scan_detections.json").read_text())
    place = np.array(document["detections"][0]["coordinates_voxel"])
    assert values[tuple(slice(max(v - 4, 0), v + 5) for v in place)].max() > 0.5


@pytest.mark.parametrize("kind", ["tilted", "uneven"])
def test_heat_map_of_an_irregular_series_lies_on_every_slice(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shape, spacing = (12, 30, 34), (2.0, 1.2, 0.9)
    geometry = straight_geometry(shape, spacing)
    if kind == "tilted":
        geometry.positions[:, 1] += np.tan(np.radians(25)) * geometry.positions[:, 2]
    else:
        geometry.positions[:, 2] = np.cumsum([1.5, 2.3] * 6)
    chest = np.full(shape, -1000.0)  # a body with a lung, as the check of inputs wants it
    chest[:, 4:26, 4:30] = 40.0
    chest[:, 10:18, 10:24] = -800.0
    series = write_ct_series(tmp_path / "in", chest, geometry, body_part="CHEST")
    settings = EngineSettings(name="x", kind="lung_nodule", model="demo", device="cpu", backend="torch")
    engine = engine_class("lung_nodule").load(settings, ModelStore(tmp_path / "models"))
    assert isinstance(engine, LungNoduleEngine)
    (case,) = engine.prepare(series)
    assert isinstance(case, VolumeCase)
    gradient = np.array([0.001, 0.003, -0.002])
    grid = case.prepared.grid
    voxels = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1).reshape(-1, 3)
    heat = (0.25 + grid.to_patient(voxels) @ gradient).reshape(grid.shape).astype(np.float32)
    monkeypatch.setattr(engine, "maps", lambda image: (heat, np.zeros_like(heat)))
    (analysis,) = engine.infer([case])
    write_nodule_files(analysis, tmp_path)
    written = nibabel.load(tmp_path / "scan_heatmap.nii.gz")
    assert isinstance(written, nibabel.Nifti1Image)
    values = np.asarray(written.dataobj)
    assert values.shape == (34, 30, 12)
    pixels = np.stack(np.meshgrid(np.arange(34), np.arange(30), np.arange(12), indexing="ij"), -1)
    places = geometry.positions[pixels[..., 2]] + pixels[..., :2] @ np.array([[0.9, 0, 0], [0, 1.2, 0]])
    # Beyond the last plane of the model's grid the map goes on as it ends, for less than 1 mm.
    assert np.abs(values - (0.25 + places @ gradient)).max() < 0.004
    stated = (pixels @ written.affine[:3, :3].T + written.affine[:3, 3]) * (-1, -1, 1)
    exact = range(12) if kind == "tilted" else (0, 11)
    for number in exact:
        np.testing.assert_allclose(stated[:, :, number], places[:, :, number], atol=1e-3)


def test_pictures_and_documents_open(written: Written) -> None:
    folder, _, _ = written
    for name in ("scan_visualization.png", "scan_confidence_distribution.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    assert (folder / "scan_report.pdf").read_bytes().startswith(b"%PDF")
    page = (folder / "scan_3d_rendering.html").read_text()
    assert "AI result, not reviewed" in page and "nodule 1" in page
