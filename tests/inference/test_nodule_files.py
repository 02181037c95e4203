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

from inference.engines import engine_class
from inference.nodule_files import write_nodule_files
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.volumes.phantoms import lung_phantom, straight_geometry, write_ct_series


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Path]]:
    folder = tmp_path_factory.mktemp("nodules")
    phantom = lung_phantom(10_000_003, (48, 100, 110), (1.5, 0.9, 0.8), nodules=2)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    series = write_ct_series(folder / "in", phantom.values, geometry, body_part="CHEST")
    settings = EngineSettings(name="x", kind="lung_nodule", model="demo", device="cpu")
    engine = engine_class("lung_nodule").load(settings, ModelStore(folder / "models"))
    (analysis,) = engine.infer(engine.prepare(series))
    assert analysis.detections
    write_nodule_files(analysis, folder)
    return folder, series


def test_detections_have_the_schema(written: tuple[Path, list[Path]]) -> None:
    folder, _ = written
    document = json.loads((folder / "scan_detections.json").read_text())
    assert set(document) == {"scan_id", "model", "timestamp", "metadata", "detections", "summary"}
    assert document["metadata"] == {"spacing": [0.8, 0.9, 1.5], "shape": [110, 100, 48]}
    assert set(document["summary"]) == {
        "num_detections",
        "high_risk_count",
        "low_risk_count",
        "processing_time_seconds",
    }
    for number, detection in enumerate(document["detections"]):
        assert detection["id"] == number
        assert set(detection["properties"]) >= {"volume_mm3", "mean_intensity", "std_intensity"}
        assert set(detection["triage"]) == {"malignancy_score", "risk_category"}
        in_voxels = np.array(detection["coordinates"]) / document["metadata"]["spacing"]
        assert np.abs(in_voxels - detection["coordinates_voxel"]).max() < 0.6
    with (folder / "scan_detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == document["summary"]["num_detections"]
    assert list(rows[0])[:6] == ["scan_id", "detection_id", "coord_x", "coord_y", "coord_z", "diameter_mm"]


def test_heat_map_lies_on_the_series(written: tuple[Path, list[Path]]) -> None:
    folder, series = written
    heat = nibabel.load(folder / "scan_heatmap.nii.gz")
    assert heat.shape == (110, 100, 48)
    values = np.asarray(heat.dataobj)
    assert 0 <= values.min() and 0.5 < values.max() <= 1
    x, y, z = (float(value) for value in pydicom.dcmread(series[0]).ImagePositionPatient)
    assert heat.affine @ [0, 0, 0, 1] == pytest.approx([-x, -y, z, 1], abs=1e-3)
    document = json.loads((folder / "scan_detections.json").read_text())
    place = np.array(document["detections"][0]["coordinates_voxel"])
    assert values[tuple(slice(max(v - 4, 0), v + 5) for v in place)].max() > 0.5


def test_pictures_and_documents_open(written: tuple[Path, list[Path]]) -> None:
    folder, _ = written
    for name in ("scan_visualization.png", "scan_confidence_distribution.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 100
    assert (folder / "scan_report.pdf").read_bytes().startswith(b"%PDF")
    page = (folder / "scan_3d_rendering.html").read_text()
    assert "AI result, not reviewed" in page and "nodule 1" in page
