"""CT and MR series go through the node and come back as reports, overlays and segmentations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest

from inference.demo.volume_phantoms import lung_phantom, straight_geometry, write_ct_series
from inference.importing.imports import import_model
from inference.store import ModelStore
from tests.peers.dcmtk import send
from tests.peers.node import Node
from tests.peers.orthanc import Orthanc
from tests.system.conftest import Site
from tests.validators import dciodvfy_errors, require_validators, sr_validator_errors
from tests.volume_models import bundle_folder, nnunet_folder

SEGMENTATION = "1.2.840.10008.5.1.4.1.1.66.4"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
ENGINES = """
[[engine]]
name = "lungs"
kind = "lung_nodule"
model = "demo"

[[engine]]
name = "metastases"
kind = "brain_metastasis"
model = "demo"

[[engine]]
name = "head"
kind = "monai_bundle"
model = "head"

[[engine]]
name = "brain"
kind = "brain_mri"
model = "brain"
options = { tta = false }

[[route]]
name = "chest CT"
match = { Modality = ["CT"], BodyPartExamined = "CHEST" }
engines = ["lungs"]
destinations = ["pacs"]

[[route]]
name = "head CT"
match = { Modality = ["CT"], BodyPartExamined = "HEAD" }
engines = ["metastases", "head"]
destinations = ["pacs"]

[[route]]
name = "brain MR"
match = { Modality = ["MR"], ImageType = ["ORIGINAL"] }
engines = ["brain"]
destinations = ["pacs"]
"""


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("volumes")
    with Orthanc(folder / "pacs") as pacs:
        node = Node(
            folder / "node", [("pacs", "ORTHANC", pacs.port)], receivers=1, extra=ENGINES, engine=False
        )
        store = ModelStore(node.data_dir / "models")
        bundle_folder(folder / "bundle", {"0": "background", "1": "head"})
        import_model(store, folder / "bundle", name="head", trust=True)
        nnunet_folder(folder / "results", {"background": 0, "brain": 1, "Hemorrhage": 2})
        import_model(store, folder / "results", name="brain", trust=True)
        with node:
            yield Site(node=node, pacs=pacs)


def returned(site: Site, study: str, folder: Path) -> dict[str, list[tuple[Path, pydicom.Dataset]]]:
    """The PACS' objects of a study that the node has made, by SOP Class; each conforms."""
    require_validators()
    made: dict[str, list[tuple[Path, pydicom.Dataset]]] = {}
    for path, dataset in site.pacs.objects(folder, study):
        made.setdefault(str(dataset.SOPClassUID), []).append((path, dataset))
        assert dciodvfy_errors(path) == [], path
    for path, _ in made[COMPREHENSIVE_3D_SR]:
        assert sr_validator_errors(path) == []
    return made


def sources(files: list[Path]) -> dict[str, pydicom.Dataset]:
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in files]
    return {str(header.SOPInstanceUID): header for header in headers}


def lies_on_sources(path: Path, files: list[Path]) -> int:
    """How many frames a segmentation has; each lies exactly where the source image lies that it names."""
    known = sources(files)
    segmentation = highdicom.seg.segread(path)
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        named = frame.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        position = frame.PlanePositionSequence[0].ImagePositionPatient
        assert np.allclose(position, known[str(named)].ImagePositionPatient, atol=1e-3)
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    one = next(iter(known.values()))
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert np.allclose(orientation, one.ImageOrientationPatient, atol=1e-5)
    assert segmentation.FrameOfReferenceUID == one.FrameOfReferenceUID
    found = segmentation.get_pixels_by_source_instance(
        source_sop_instance_uids=[
            str(f.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)
            for f in segmentation.PerFrameFunctionalGroupsSequence
        ],
        ignore_spatial_locations=True,
        assert_missing_frames_are_empty=True,
    )
    assert found.any()
    return int(segmentation.NumberOfFrames)


def test_nodules_of_a_chest_come_back(volumes: Site, tmp_path: Path) -> None:
    phantom = lung_phantom(10_000_003, (64, 110, 110), (1.25, 0.9, 0.9), nodules=2)
    geometry = straight_geometry(phantom.values.shape, phantom.spacing)
    files = write_ct_series(tmp_path / "in", phantom.values, geometry, body_part="CHEST")
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    send(volumes.node.port, *files)
    (job,) = [j for j in volumes.node.wait_for_jobs(1) if j["study_instance_uid"] == study]
    assert job["state"] == "succeeded", job["reason"]
    made = returned(volumes, study, tmp_path / "out")
    assert lies_on_sources(made[SEGMENTATION][0][0], files) > 0
    ((_, report),) = made[COMPREHENSIVE_3D_SR]
    content = highdicom.sr.srread(made[COMPREHENSIVE_3D_SR][0][0]).content
    assert isinstance(content, highdicom.sr.MeasurementReport)
    groups = content.get_volumetric_roi_measurement_groups()
    assert len(groups) == 2
    assert {str(g.reference_type.meaning) for g in groups} == {"Volume Surface"}
    assert report.StudyInstanceUID == study


def test_tilted_head_comes_back_segmented(volumes: Site, tmp_path: Path, real_data: Path) -> None:
    files = sorted((real_data / "ct_head_ge").glob("*.dcm"))
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    before = len(volumes.node.jobs())
    send(volumes.node.port, *files)
    jobs = [j for j in volumes.node.wait_for_jobs(before + 2, 180) if j["study_instance_uid"] == study]
    assert {j["engine"]: j["state"] for j in jobs} == {"metastases": "succeeded", "head": "succeeded"}
    made = returned(volumes, study, tmp_path / "out")
    assert len(made[COMPREHENSIVE_3D_SR]) == 2
    assert lies_on_sources(made[SEGMENTATION][0][0], files) > 10
    for _, report in made[COMPREHENSIVE_3D_SR]:
        comments = [str(item.get("TextValue", "")) for item in report.ContentSequence]
        assert any("the gantry was tilted" in comment for comment in comments), comments


def test_each_small_series_of_a_brain_is_routed_on_its_own(
    volumes: Site, tmp_path: Path, real_data: Path
) -> None:
    files = sorted((real_data / "mr_brain_siemens").glob("*.dcm"))
    study = str(pydicom.dcmread(files[0]).StudyInstanceUID)
    before = len(volumes.node.jobs())
    send(volumes.node.port, *files)
    jobs = [j for j in volumes.node.wait_for_jobs(before + 4, 180) if j["study_instance_uid"] == study]
    assert [j["state"] for j in jobs] == ["succeeded"] * 4, [j["reason"] for j in jobs]
    assert len({j["series_instance_uid"] for j in jobs}) == 4
    made = returned(volumes, study, tmp_path / "out")
    assert len(made[COMPREHENSIVE_3D_SR]) == 4
    for path, _ in made[SEGMENTATION]:
        lies_on_sources(path, files)
