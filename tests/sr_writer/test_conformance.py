"""Results before the validators: dciodvfy on every object, DicomSRValidator on every kind of report."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels.utils import pixel_array
from pydicom.uid import Comprehensive3DSRStorage

from inference.findings import Absence, Analysis, ModelIdentity
from sr_writer import PredecessorReport, ReportContext, encode, write_results
from tests.validators import dciodvfy_errors, sr_validator_errors, validators_missing

MakeAnalysis = Callable[..., Analysis]
MakeImage = Callable[..., Path]

NEGATIVE = (0.1, 0.02, 0.0, 0.19)

PREDECESSOR = PredecessorReport(
    study_instance_uid="1.2.3.1",
    series_instance_uid="2.25.5",
    sop_class_uid=Comprehensive3DSRStorage,
    sop_instance_uid="2.25.6",
)

pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(bool(validators_missing()), reason=f"not installed: {validators_missing()}"),
]


def errors(analyses: Sequence[Analysis], context: ReportContext, folder: Path) -> list[str]:
    """What the validators say of all objects of a job."""
    found: list[str] = []
    for index, written in enumerate(write_results(analyses, context)):
        path = folder / f"result{index}.dcm"
        path.write_bytes(encode(written))
        found += dciodvfy_errors(path)
        if written.kind == "sr":
            found += sr_validator_errors(path)
    return found


def test_positives_with_regions_on_two_images_after_a_predecessor_conform(
    make_analysis: MakeAnalysis,
    jpeg_image: Path,
    monochrome1_image: Path,
    context: ReportContext,
    tmp_path: Path,
) -> None:
    first = make_analysis(jpeg_image, regions=2, review_advised="the ensemble disagrees")
    second = make_analysis(monochrome1_image)
    in_one_study = replace(
        second, source=replace(second.source, study_instance_uid=first.source.study_instance_uid)
    )
    assert errors([first, in_one_study], replace(context, predecessor=PREDECESSOR), tmp_path) == []


def test_all_negatives_on_a_minimal_header_conform(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path
) -> None:
    assert errors([make_analysis(make_image(), NEGATIVE)], context, tmp_path) == []


def test_standard_deviations_of_certainties_conform(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path
) -> None:
    analysis = make_analysis(make_image(Laterality="L", ImageLaterality="L"), deviation=0.0412)
    assert errors([analysis], context, tmp_path) == []


def test_finding_beside_a_negative_class_with_a_disclaimer_conforms(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path
) -> None:
    analysis = make_analysis(make_image(Laterality="L", ImageLaterality="L"))
    one = replace(
        analysis,
        findings=analysis.findings[1:2],
        absence=Absence(name="Normal", logit=-1.0, probability=0.1, calibrated_probability=0.1),
        exclusive=True,
        disclaimer="AI-assisted preliminary reading. Clinical correlation required.",
    )
    assert errors([one], context, tmp_path) == []


def test_japanese_names_requests_and_a_demonstration_model_conform(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path
) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.RequestedProcedureDescription = "\u80f8\u90e8"
    image = make_image(
        SpecificCharacterSet=["", "ISO 2022 IR 87"],
        PatientName="Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046",
        PatientID="7",
        PatientAge="062Y",
        StudyDate="20260301",
        StudyTime="101500",
        StudyID="1",
        AccessionNumber="A7",
        Modality="DX",
        Laterality="L",
        ImageLaterality="L",
        TimezoneOffsetFromUTC="+0900",
        RequestAttributesSequence=[request],
    )
    model = ModelIdentity(
        name="demo",
        version="1 (89ef89ef)",
        sha256="89ef" * 16,
        kind="chest_xray",
        manufacturer="overread",
        licence="MIT",
        demonstration=True,
    )
    with_device = replace(context, device_serial_number="17")
    assert errors([make_analysis(image, model=model, regions=0)], with_device, tmp_path) == []


def test_compressed_overlays_conform_and_dcmtk_decodes_them(
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    jpeg_image: Path,
    context: ReportContext,
    tmp_path: Path,
) -> None:
    if shutil.which("dcmdjpeg") is None:
        pytest.skip("not installed: dcmtk")
    compressed = replace(context, overlay_compression="jpeg")
    # Of an odd width, and of a source that lost something before.
    odd = make_image(Laterality="L", ImageLaterality="L")
    for source in (odd, jpeg_image):
        folder = tmp_path / source.stem
        folder.mkdir()
        analysis = make_analysis(source)
        assert errors([analysis], compressed, folder) == []
        decoded = folder / "decoded.dcm"
        subprocess.run(["dcmdjpeg", folder / "result1.dcm", decoded], check=True, timeout=60)
        pixels = write_results([analysis], context)[1].dataset.pixel_array
        difference = pixel_array(decoded).astype(int) - pixels
        assert 10 * np.log10(255**2 / np.mean(difference**2)) > 38


def test_validators_report_a_broken_object(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path
) -> None:
    report = write_results([make_analysis(make_image(), NEGATIVE)], context)[0].dataset
    del report.CompletionFlag
    names = [item.ConceptNameCodeSequence[0].CodeMeaning for item in report.ContentSequence]
    del report.ContentSequence[names.index("Imaging Measurements")]
    path = tmp_path / "broken.dcm"
    report.save_as(path, enforce_file_format=True)
    assert dciodvfy_errors(path)
    assert sr_validator_errors(path)
