"""Is this the right input: what is measured, what a card expects of it, and what is refused or advised."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from inference.checking.expectations import CHEST_RADIOGRAPH, HEAD_CT, with_learned_ranges
from inference.checking.input_check import InputCheck, header_refusal
from inference.checking.measurement import measures_of_hounsfield, measures_of_picture
from inference.demo.phantoms import chest_phantom, phantom_dicom
from inference.demo.volume_phantoms import head_phantom, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.findings import Refusal
from inference.headers import ImageHeader
from inference.importing.imports import import_model
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.expects import Expectations, Joint, Limits
from inference.store.measures import MEASURES
from sr_writer import ReportContext, write_results
from tests.inference.conftest import WriteRadiograph
from tests.volume_models import bundle_folder, metastasis_checkpoint

pytestmark = pytest.mark.engine


def plastic_head(size: int = 128, *, fill: float = 35, shell: float = 1000, thickness: float = 0.08) -> Any:
    """An ellipsoid of one material with a thin shell, in air; Hounsfield units with noise."""
    at = (np.arange(size) - size / 2) * 230 / size
    height = np.arange(-75, 75, 5.0)[:, None, None]
    radius = np.sqrt((at / 72) ** 2 + (at[:, None] / 92) ** 2 + (height / 85) ** 2)
    values = np.where(radius < 1 - thickness, fill, np.where(radius < 1, shell, -1000.0))
    return values + np.random.default_rng(1).normal(0, 5, values.shape)


def written(folder: Path, values: Any, body_part: str = "HEAD") -> list[Path]:
    pixel = 230 / values.shape[1]
    return write_ct_series(
        folder, values, straight_geometry(values.shape, (5.0, pixel, pixel)), body_part=body_part
    )


def engine(store: ModelStore, kind: str, model: str = "demo") -> Any:
    settings = EngineSettings(name="x", kind=kind, model=model, device="cpu", backend="torch")
    return engine_class(kind).load(settings, store)


def refused(loaded: Any, files: list[Path]) -> str:
    (refusal,) = loaded.prepare(files)
    assert isinstance(refusal, Refusal)
    return refusal.reason


# What is measured


def test_shares_of_tissues_are_those_of_the_drawing() -> None:
    values = np.full((10, 64, 64), -1000.0)
    values[2:8, 16:48, 16:48] = 40
    values[2:8, 16:24, 16:48] = 800
    values[2:8, 24:26, 16:48] = 4000
    values[2:8, 40:48, 16:48] = -700
    found = measures_of_hounsfield(values)
    body = 24 * 32
    assert found["body"] == pytest.approx(6 * body / (10 * 64 * 64))
    assert found["bone"] == pytest.approx(10 * 32 / body)
    assert found["metal"] == pytest.approx(2 * 32 / body)
    assert found["soft_tissue"] == pytest.approx(14 * 32 / body)
    assert found["air"] == 0  # the box ends where the body does, and the lung lies outside of it
    assert found["tissue_hu"] == 40
    assert found["structure_hu"] == found["noise_hu"] == 0


@pytest.mark.parametrize("size", [64, 128, 256])
@pytest.mark.parametrize("noise", [0.0, 4.0, 12.0])
def test_noise_is_no_structure(size: int, noise: float) -> None:
    random = np.random.default_rng(1)
    values = 40 + random.normal(0, noise, (8, size, size))
    found = measures_of_hounsfield(values)
    assert found["noise_hu"] == pytest.approx(noise, rel=0.1)
    assert found["structure_hu"] < 0.2 * noise + 0.01
    stripes = np.repeat(np.arange(8), size // 8) % 2 * 30.0
    assert measures_of_hounsfield(values + stripes - 15)["structure_hu"] > 10


def test_empty_and_tiny_volumes_are_measured() -> None:
    assert measures_of_hounsfield(np.full((3, 32, 32), -1000.0)) == {"body": 0}
    assert "structure_hu" not in measures_of_hounsfield(np.full((3, 1, 1), 40.0))


def test_figures_of_pictures() -> None:
    ramp = np.tile(np.linspace(0, 1, 128, dtype=np.float32), (128, 1))
    found = measures_of_picture(ramp)
    assert found["symmetry"] == pytest.approx(-1, abs=1e-3)
    assert measures_of_picture(np.minimum(ramp, ramp[:, ::-1]))["symmetry"] == pytest.approx(1, abs=1e-3)
    assert found["brightness"] == pytest.approx(0.5, abs=0.01)
    assert found["entropy_bits"] == pytest.approx(5, abs=0.05)
    blank = measures_of_picture(np.full((128, 128), 0.3, dtype=np.float32))
    assert blank["contrast"] == pytest.approx(0, abs=1e-6)
    assert blank["entropy_bits"] == 0


def test_every_figure_has_words() -> None:
    measured = measures_of_hounsfield(head_phantom(1, 6, 64).values) | measures_of_picture(
        chest_phantom(1, 64).picture
    )
    assert set(measured) <= set(MEASURES)
    assert MEASURES["bone"].shown(0.003) == "0.3 %"
    assert MEASURES["slice_spacing_mm"].shown(1.25) == "1.25 mm"


# What a card says


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({"measures": {"bones": {}}}, "did you mean 'bone'"),
        ({"measures": {"bone": {"refuse": [0.6, 0.02]}}}, "smaller value comes first"),
        ({"body_parts": "HEAD("}, "no regular expression"),
        (
            {
                "joint": {
                    "names": ["bone"],
                    "means": [],
                    "deviations": [1.0],
                    "precision": [[1.0]],
                    "most": 1.0,
                }
            },
            "for the 1 measures",
        ),
    ],
)
def test_wrong_expectations_are_named(fault: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Expectations.model_validate(fault)


def test_reason_names_figure_value_and_range() -> None:
    check = InputCheck.of(HEAD_CT, {"bone": 0.003, "tissue_hu": 48.0, "structure_hu": 9.0})
    assert check.refusal == (
        "this may be no head of a patient: "
        "share of bone (300 HU and more) in the body is 0.3 %, expected at least 2.0 %"
    )
    assert check.review is not None
    assert "median of the soft tissue is 48.0 HU, expected at most 45.0 HU" in check.review
    assert InputCheck.of(HEAD_CT, {}) == InputCheck()


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"Modality": "CT", "BodyPartExamined": "HEAD"}, None),
        ({"Modality": "CT", "BodyPartExamined": ""}, None),
        ({"Modality": "MR", "BodyPartExamined": "HEAD"}, "the model is for CT, not for MR"),
        ({"Modality": "", "BodyPartExamined": "HEAD"}, "the model is for CT, not for an unknown modality"),
        ({"Modality": "CT", "BodyPartExamined": "FOREHEAD"}, "the model is not for the body part FOREHEAD"),
        (
            {"Modality": "CT", "BodyPartExamined": "HEAD", "ViewPosition": "LL"},
            "the model is for the views PA, AP, not for LL",
        ),
    ],
)
def test_header_is_checked_where_it_says_something(attributes: dict[str, str], reason: str | None) -> None:
    expects = Expectations(modalities=("CT",), body_parts="head|brain", views=("PA", "AP"))
    header = ImageHeader(sop_class_uid="1.2", sop_instance_uid="1.3", attributes=attributes)
    assert header_refusal(expects, header) == reason
    assert header_refusal(None, header) is None


# Ranges of cases


def test_ranges_are_those_of_the_cases_with_a_margin() -> None:
    base = Expectations(measures={"bone": Limits(refuse=(0.02, None), review=(0.1, None), meaning="no head")})
    found = with_learned_ranges(base, [{"bone": 0.15, "tissue_hu": 30.0}, {"bone": 0.25, "tissue_hu": 31.0}])
    assert found.measures["bone"] == Limits(refuse=(0.02, None), review=(0.1, 0.3), meaning="no head")
    assert found.measures["tissue_hu"].review == (26.9, 34.1)
    assert found.cases == 2
    assert found.joint is None
    check = InputCheck.of(found, {"bone": 0.35, "tissue_hu": 30.0})
    assert check.refusal is None
    assert check.review is not None and check.review.startswith("unlike the 2 cases of the model card: ")
    with pytest.raises(ValueError, match="no cases"):
        with_learned_ranges(base, [])


def test_figures_that_do_not_go_together_are_noticed() -> None:
    random = np.random.default_rng(1)
    brightness = random.uniform(0.3, 0.7, 100)
    cases = [{"brightness": b, "contrast": b / 2 + random.normal(0, 0.002)} for b in brightness]
    found = with_learned_ranges(Expectations(), cases)
    assert isinstance(found.joint, Joint)
    assert all(InputCheck.of(found, case).review is None for case in cases)
    review = InputCheck.of(found, {"brightness": 0.4, "contrast": 0.3}).review
    assert review is not None
    assert "the figures together are" in review
    assert InputCheck.of(found, {"brightness": 0.4}).review is None
    assert Expectations.model_validate_json(found.model_dump_json()) == found


# Engines


@pytest.mark.parametrize("kind", ["brain_metastasis", "hybrid_volume"])
@pytest.mark.parametrize(
    ("material", "reason"),
    [
        ({"fill": 35}, "a phantom of one material, not a head"),
        ({"fill": 120, "thickness": 0.03}, "share of soft tissue"),
        ({"fill": 20, "shell": 150}, "share of bone .* is 0.0 %, expected at least 2.0 %"),
    ],
)
def test_plastic_head_is_refused(
    tmp_path: Path, store: ModelStore, kind: str, material: dict[str, Any], reason: str
) -> None:
    files = written(tmp_path / "in", plastic_head(**material))
    assert re.search(reason, refused(engine(store, kind), files))


def test_model_whose_card_expects_nothing_has_what_its_kind_expects(
    tmp_path: Path, store: ModelStore
) -> None:
    metastasis_checkpoint(tmp_path / "best.pth")
    assert import_model(store, tmp_path / "best.pth", name="brain", trust=True).card.expects is None
    loaded = engine(store, "brain_metastasis", "brain")
    assert "one material" in refused(loaded, written(tmp_path / "in", plastic_head()))


def test_unfamiliar_head_is_analysed_and_the_report_advises_review(tmp_path: Path, store: ModelStore) -> None:
    values = head_phantom(10_000_007, 8, 128).values + np.random.default_rng(1).normal(0, 9, (8, 128, 128))
    loaded = engine(store, "brain_metastasis")
    (case,) = loaded.prepare(written(tmp_path / "in", values))
    (analysis,) = loaded.infer([case])
    assert "unlike the 60 cases of the model card: " in analysis.review_advised
    assert "noise of the soft tissue" in analysis.review_advised
    context = ReportContext(
        job_seed="seed", engine_name="x", content_datetime=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    )
    (report,) = [o.dataset for o in write_results([analysis], context) if o.kind == "sr"]
    comments = [str(item.get("TextValue", "")) for item in report.ContentSequence]
    assert any("Review advised" in text and "noise of the soft tissue" in text for text in comments)


def test_drawn_patients_need_no_review(tmp_path: Path, store: ModelStore) -> None:
    (head,) = engine(store, "brain_metastasis").prepare(
        written(tmp_path / "in", head_phantom(10_000_007, size=128).values)
    )
    assert head.check.review is None
    path = tmp_path / "chest.dcm"
    phantom_dicom(10_000_001).save_as(path, enforce_file_format=True)
    (chest,) = engine(store, "chest_xray").prepare([path])
    assert chest.review_advised is None


def test_blank_radiograph_is_refused(write_radiograph: WriteRadiograph, store: ModelStore) -> None:
    cells = np.full((300, 300), 1000, dtype=np.uint16)
    cells[0, 0] = 4000
    reason = refused(engine(store, "chest_xray"), [write_radiograph(cells)])
    assert "there is hardly a picture: standard deviation of the picture's brightness is 0.0 %" in reason


def test_real_images_are_taken_and_review_is_advised(store: ModelStore, real_data: Path) -> None:
    chest = engine(store, "chest_xray")
    files = [path for path in sorted((real_data / "cxr").iterdir()) if path.suffix in (".dcm", ".png")]
    for case in chest.prepare(files):
        assert not isinstance(case, Refusal)
        assert "unlike the 300 cases" in case.review_advised
        assert InputCheck.of(CHEST_RADIOGRAPH, case.check.figures).review is None
    head = sorted((real_data / "ct_head_ge").glob("*.dcm"))
    for kind in ("brain_metastasis", "hybrid_volume"):
        (case,) = engine(store, kind).prepare(head)
        assert "unlike the 60 cases" in case.check.review
        assert InputCheck.of(HEAD_CT, case.check.figures).review is None


def test_model_of_the_abdomen_takes_no_head(tmp_path: Path, store: ModelStore) -> None:
    bundle_folder(tmp_path / "bundle", {"0": "background", "1": "spleen", "2": "kidney_left"})
    import_model(store, tmp_path / "bundle", name="bundle", trust=True)
    reason = refused(
        engine(store, "monai_bundle", "bundle"), written(tmp_path / "in", head_phantom(1, 6, 64).values)
    )
    assert reason == "nothing that the model segments (spleen, kidney left) lies in the body part HEAD"
