"""Results of volumes: lesions and structures in reports, overlays and segmentations that agree with each other."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset

from inference.demo.volume_phantoms import straight_geometry, write_ct_series
from inference.findings import (
    Analysis,
    Code,
    Detection,
    Finding,
    Heatmap,
    KeyImage,
    Label,
    ScannedVolume,
    Segmentation,
    SourceImage,
    Structure,
)
from inference.importing import anatomy
from sr_writer import ReportContext, overlay, render_text, write_results
from sr_writer.overlay_picture import Legend, draw_overlay
from sr_writer.segmentation import laterality, type_code
from sr_writer.shown import ShownPicture
from tests.sr_writer.conftest import MODEL, THRESHOLDS
from tests.sr_writer.test_report import TRACKING, TRACKING_UID, child, groups
from tests.validators import dciodvfy_errors, sr_validator_errors, validators_missing

SIZE = 40
NODULE = Label(
    name="Lung nodule", thresholds=THRESHOLDS, finding=Code(value="27925004", scheme="SCT", meaning="Nodule")
)
ANATOMY = Code(value="91723000", scheme="SCT", meaning="Anatomical Structure")
MORPHOLOGY = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
KIDNEY = Code(value="64033007", scheme="SCT", meaning="Kidney")
SPLEEN = Code(value="78961009", scheme="SCT", meaning="Spleen")


@pytest.fixture
def slices(tmp_path: Path) -> list[SourceImage]:
    """Four axial CT slices."""
    values = np.random.default_rng(3).normal(0, 100, (4, SIZE, SIZE))
    geometry = straight_geometry(values.shape, (2.0, 1.0, 1.0))
    paths = write_ct_series(tmp_path / "in", values, geometry, body_part="CHEST", seed="volumes")
    headers = [pydicom.dcmread(path, stop_before_pixels=True) for path in paths]
    return [
        SourceImage(
            path=path,
            study_instance_uid=str(header.StudyInstanceUID),
            series_instance_uid=str(header.SeriesInstanceUID),
            sop_class_uid=str(header.SOPClassUID),
            sop_instance_uid=str(header.SOPInstanceUID),
            rows=SIZE,
            columns=SIZE,
        )
        for path, header in zip(paths, headers, strict=True)
    ]


def segmentation(slices: list[SourceImage], structures: tuple[Structure, ...]) -> Segmentation:
    labels = np.zeros((len(slices), SIZE, SIZE), dtype=np.uint8)
    for structure in structures:
        labels[:, 5 * structure.value : 5 * structure.value + 4, 5:20] = structure.value
    return Segmentation(images=tuple(slices), labels=labels, structures=structures)


def volume(slices: list[SourceImage], **fields: Any) -> Analysis:
    header = pydicom.dcmread(slices[0].path, stop_before_pixels=True)
    analysis = Analysis(
        source=slices[2],
        model=MODEL,
        findings=(),
        picture=np.zeros((SIZE, SIZE), np.uint8),
        device="cpu",
        inference_time_ms=1.0,
        volume=ScannedVolume(
            images=tuple(slices),
            frame_of_reference_uid=str(header.FrameOfReferenceUID),
            spacing=(1.0, 1.0, 1.0),
            shape=(len(slices), SIZE, SIZE),
        ),
    )
    return replace(analysis, **fields)


@pytest.fixture
def nodules(slices: list[SourceImage]) -> Analysis:
    """A volume with one nodule: certain, but with a low risk."""
    ends = np.array([[-5, 0, 0], [5, 0, 0], [0, -5, 0], [0, 5, 0], [0, 0, -2], [0, 0, 2]], dtype=float)
    detection = Detection(
        number=1,
        label=NODULE,
        certainty=0.97,
        centre=(0.0, 0.0, 0.0),
        voxel=(1, 20, 20),
        position=(1.5, 20.0, 20.0),
        ellipsoid=ends,
        diameter_mm=11.94,
        volume_mm3=891.3,
        mean_hu=-20.0,
        std_hu=30.0,
        sphericity=0.9,
        malignancy=0.0861,
        risk="low",
    )
    nodule = Structure(
        value=1,
        name="Lung nodule 1",
        category=MORPHOLOGY,
        type=NODULE.finding,
        volume_mm3=detection.volume_mm3,
    )
    heat = Heatmap(values=np.eye(SIZE, dtype=np.float32), method="Nodule heat map")
    return volume(
        slices,
        findings=(
            Finding(label=NODULE, logit=3.0, probability=0.97, calibrated_probability=0.97, image=slices[1]),
        ),
        detections=(detection,),
        segmentation=segmentation(slices, (nodule,)),
        key_images=(
            KeyImage(
                source=slices[1],
                title="nodule 1, image 2, z -1.0 mm",
                label=NODULE,
                certainty=0.97,
                picture=np.zeros((SIZE, SIZE), np.uint8),
                heatmap=heat,
                detection=1,
            ),
        ),
    )


@pytest.fixture
def organs(slices: list[SourceImage]) -> Analysis:
    """A volume with a structure that has a side and one that has none."""
    structures = (
        Structure(value=1, name="kidney left", category=ANATOMY, type=KIDNEY, volume_mm3=150_000.0),
        Structure(value=2, name="spleen", category=ANATOMY, type=SPLEEN, volume_mm3=180_000.0),
        Structure(value=3, name="autochthon right", category=ANATOMY, type=None, volume_mm3=90_000.0),
    )
    return volume(slices, segmentation=segmentation(slices, structures))


def of_kind(analysis: Analysis, context: ReportContext, kind: str) -> list[Dataset]:
    return [w.dataset for w in write_results([analysis], context) if w.kind == kind]


def test_panel_of_a_lesion_says_what_the_report_says(
    nodules: Analysis, context: ReportContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Legend] = []

    def noted(shown: ShownPicture, legend: Legend) -> Image.Image:
        drawn.append(legend)
        return draw_overlay(shown, legend)

    monkeypatch.setattr(overlay, "draw_overlay", noted)
    text = render_text(of_kind(nodules, context, "sr")[0])
    (legend,) = drawn
    assert (legend.finding, legend.title) == ("Lung nodule", "nodule 1, image 2, z -1.0 mm")
    assert legend.statements == ("Diameter: 11.9 mm", "Volume: 891 mm3", "Malignancy: 8.6 %", "Low risk")
    for line in ("Diameter: 11.94 mm", "Volume: 891.3 mm3", "Probability of cancer: 8.61 %", "Low risk"):
        assert line in text


def test_map_is_called_a_map_once(nodules: Analysis, context: ReportContext) -> None:
    (shown,) = of_kind(nodules, context, "overlay")
    assert shown.DerivationDescription == "Nodule heat map for Lung nodule blended over the source image"


def tracked(report: Dataset, name: str) -> tuple[str, str]:
    (group,) = [g for g in groups(report) if child(g, TRACKING).TextValue == name]
    return child(group, TRACKING).TextValue, child(group, TRACKING_UID).UID


@pytest.mark.parametrize(("volumes", "count"), [("nodules", 1), ("organs", 3)])
def test_report_and_segmentation_track_by_the_same_identifiers(
    volumes: str, count: int, context: ReportContext, request: pytest.FixtureRequest
) -> None:
    analysis: Analysis = request.getfixturevalue(volumes)
    report, *_, segments = (w.dataset for w in write_results([analysis], context))
    assert len(segments.SegmentSequence) == count
    for segment in segments.SegmentSequence:
        assert tracked(report, segment.TrackingID) == (segment.TrackingID, segment.TrackingUID)


def test_volumes_of_one_series_are_tracked_apart(organs: Analysis, context: ReportContext) -> None:
    report, *segmentations = (w.dataset for w in write_results([organs, organs], context))
    uids = {segment.TrackingUID for written in segmentations for segment in written.SegmentSequence}
    assert len(uids) == 6
    assert uids == {child(group, TRACKING_UID).UID for group in groups(report)}


def test_side_of_a_structure_is_coded_where_its_code_has_none(
    organs: Analysis, context: ReportContext
) -> None:
    report, segments = (w.dataset for w in write_results([organs], context))
    types = [segment.SegmentedPropertyTypeCodeSequence[0] for segment in segments.SegmentSequence]
    modifiers = [item.get("SegmentedPropertyTypeModifierCodeSequence") for item in types]
    assert modifiers[0][0].CodeValue == "7771000"
    assert modifiers[1:] == [None, None]
    assert types[2].CodeMeaning == "autochthon right"
    site = child(groups(report)[0], "363698007")
    assert site.ConceptCodeSequence[0].CodeValue == KIDNEY.value
    assert child(site, "272741003").ConceptCodeSequence[0].CodeMeaning == "Left"
    lobe = Code(value="72481006", scheme="SCT", meaning="Middle lobe of right lung")
    named = Structure(value=1, name="lung middle lobe right", category=ANATOMY, type=lobe, volume_mm3=1.0)
    assert laterality(named) is None


def test_ribs_are_written_with_their_number_and_side() -> None:
    names = [f"rib_{side}_{number}" for side in ("left", "right") for number in range(1, 13)]
    ribs = []
    for value, name in enumerate(names, start=1):
        of_card = anatomy.card_structure(value, name)
        assert of_card.type is not None
        rib = Structure(
            value=value,
            name=of_card.name,
            category=ANATOMY,
            type=Code(**of_card.type.model_dump()),
            volume_mm3=1.0,
        )
        ribs.append((type_code(rib), laterality(rib)))
    assert {code.scheme_designator for code, _ in ribs} == {"SCT"}
    assert len({code.value for code, _ in ribs}) == 12
    assert len({(code.value, side.value) for code, side in ribs if side is not None}) == 24
    assert ribs[6][0].meaning == "Seventh rib"


@pytest.mark.peer
@pytest.mark.skipif(bool(validators_missing()), reason=f"not installed: {validators_missing()}")
@pytest.mark.parametrize("volumes", ["nodules", "organs", "beside"])
def test_results_of_volumes_conform(
    volumes: str, context: ReportContext, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    analysis: Analysis = request.getfixturevalue("organs" if volumes == "beside" else volumes)
    if volumes == "beside":
        of_nodules: Analysis = request.getfixturevalue("nodules")
        analysis = replace(analysis, findings=of_nodules.findings)
    found: list[str] = []
    for index, written in enumerate(write_results([analysis], context)):
        path = tmp_path / f"result{index}.dcm"
        written.dataset.save_as(path, enforce_file_format=True)
        found += dciodvfy_errors(path)
        if written.kind == "sr":
            found += sr_validator_errors(path)
    assert found == []


def test_same_arguments_make_the_same_bytes(organs: Analysis, context: ReportContext, tmp_path: Path) -> None:
    def files() -> list[bytes]:
        path = tmp_path / "result.dcm"
        found = []
        for written in write_results([organs], context):
            written.dataset.save_as(path, enforce_file_format=True)
            found.append(path.read_bytes())
        return found

    assert files() == files()


def test_dimensions_of_a_segmentation_are_of_one_organization(
    organs: Analysis, context: ReportContext
) -> None:
    (written,) = of_kind(organs, context, "segmentation")
    (organization,) = written.DimensionOrganizationSequence
    used = {item.DimensionOrganizationUID for item in written.DimensionIndexSequence}
    assert used == {organization.DimensionOrganizationUID}
    (other,) = of_kind(organs, replace(context, job_seed="other"), "segmentation")
    assert other.DimensionOrganizationSequence[0].DimensionOrganizationUID not in used
