"""Structures that no body can have are left out of an analysis, and it says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.checking.plausibility import (
    ORGANS,
    lies_outside,
    organ_of,
    reason_nothing_left,
    without_implausible,
)
from inference.findings import (
    Analysis,
    Finding,
    Label,
    ModelIdentity,
    Segmentation,
    SourceImage,
    Structure,
    Thresholds,
)

THRESHOLDS = Thresholds(low=0.2, high=0.5, critical=0.8)


def source(number: int) -> SourceImage:
    return SourceImage(
        path=Path("x"),
        study_instance_uid="1",
        series_instance_uid="1.1",
        sop_class_uid="1.2",
        sop_instance_uid=f"1.1.{number}",
        rows=2,
        columns=2,
    )


def analysis(**millilitres: float) -> Analysis:
    """Each structure has a slice of its own and a finding of its name."""
    structures = tuple(
        Structure(value=value, name=name, category=None, type=None, volume_mm3=1000 * volume)
        for value, (name, volume) in enumerate(millilitres.items(), start=1)
    )
    return Analysis(
        source=source(1),
        model=ModelIdentity(
            name="m", version="1", sha256="0", kind="monai_bundle", manufacturer="t", licence="t"
        ),
        findings=tuple(
            Finding(
                label=Label(name=name, thresholds=THRESHOLDS),
                logit=0.0,
                probability=0.5,
                calibrated_probability=0.5,
            )
            for name in millilitres
        ),
        picture=np.zeros((2, 2), dtype=np.uint8),
        device="cpu",
        inference_time_ms=1.0,
        segmentation=Segmentation(
            images=tuple(source(s.value) for s in structures),
            labels=np.stack([np.full((2, 2), s.value, dtype=np.uint16) for s in structures]),
            structures=structures,
        ),
    )


def test_possible_structures_stay_as_they_are() -> None:
    found = analysis(spleen=600, kidney_left=150, portal_vein_and_splenic_vein=9e9)
    assert without_implausible(found, "ABDOMEN") is found


@pytest.mark.parametrize(
    ("millilitres", "body_part", "said"),
    [
        (4100, "", "spleen of 4100 ml is larger than any body has (4000 ml)"),
        (150, "HEAD", "spleen cannot lie in the body part HEAD"),
    ],
)
def test_impossible_structure_is_left_out_and_named(millilitres: float, body_part: str, said: str) -> None:
    found = without_implausible(analysis(spleen=millilitres, brain=1300), body_part)
    assert found.segmentation is not None
    assert [s.name for s in found.segmentation.structures] == ["brain"]
    assert found.segmentation.images == (source(2),)
    assert np.unique(found.segmentation.labels).tolist() == [2]
    assert found.segmentation.labels.dtype == np.uint16
    assert found.labels == ("brain",)
    assert found.review_advised == said
    assert found.remarks == (f"left out as implausible: {said}",)


def test_no_segmentation_is_left_where_nothing_can_be() -> None:
    found = without_implausible(analysis(spleen=9000), "ABDOMEN")
    assert found.segmentation is None
    assert found.findings == ()
    assert without_implausible(found, "ABDOMEN") is found
    assert reason_nothing_left([found]) == "spleen of 9000 ml is larger than any body has (4000 ml)"
    assert reason_nothing_left([found, analysis(spleen=150)]) is None


@pytest.mark.parametrize(
    ("name", "organ"),
    [
        ("kidney_left", "kidney"),
        ("Left Kidney", "kidney"),
        ("lung_upper_lobe_right", "lung"),
        ("Oesophagus", "esophagus"),
        ("bladder", "urinary bladder"),
        ("adrenal_gland_right", "adrenal gland"),
    ],
)
def test_organs_are_known_by_their_names(name: str, organ: str) -> None:
    assert organ_of(name) is ORGANS[organ]
    assert organ_of("tumour") is None


def test_limits_are_generous() -> None:
    assert all(organ.most_ml >= 1.5 * organ.reference_ml for organ in ORGANS.values())


def test_only_a_known_body_part_excludes_an_organ() -> None:
    assert lies_outside("spleen", "HEAD")
    assert lies_outside("brain", "ABDOMEN")
    assert not lies_outside("spleen", "CHEST")
    assert not lies_outside("lung_lower_lobe_left", "ABDOMEN")
    assert not lies_outside("spleen", "")
    assert not lies_outside("spleen", "HEADNECK")
    assert not lies_outside("tumour", "HEAD")
