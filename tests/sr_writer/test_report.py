"""What a report says, read back from the file that it was written to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import Comprehensive3DSRStorage, SecondaryCaptureImageStorage

from inference.findings import Analysis
from sr_writer import PredecessorReport, ReportContext, render_text, write_results
from sr_writer.text import findings_table

FINDING, CERTAINTY, PRESENCE = "121071", "111012", "121052"
SEVERITY, TRACKING, TRACKING_UID = "SEVERITY", "112039", "112040"
VISUAL_EXPLANATION, IMAGE_REGION, SOURCE_OF_MEASUREMENT = "130401", "111030", "121112"


def items(item: Dataset) -> Iterator[Dataset]:
    """The item and all items below it."""
    yield item
    for child in item.get("ContentSequence") or []:
        yield from items(child)


def groups(report: Dataset) -> list[Dataset]:
    return [i for i in items(report) if i.ConceptNameCodeSequence[0].CodeValue == "125007"]


def child(group: Dataset, code: str) -> Dataset:
    found: list[Dataset] = [
        i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == code
    ]
    assert len(found) == 1, f"{len(found)} content items {code}"
    return found[0]


def has(group: Dataset, code: str) -> bool:
    return any(i.ConceptNameCodeSequence[0].CodeValue == code for i in group.ContentSequence)


def coded(item: Dataset) -> str:
    return str(item.ConceptCodeSequence[0].CodeMeaning)


@pytest.fixture
def analysis(make_analysis: Callable[..., Analysis], make_image: Callable[..., Path]) -> Analysis:
    return make_analysis(make_image(Modality="DX", PatientID="7", StudyDate="20260301"))


@pytest.fixture
def report(analysis: Analysis, context: ReportContext, write_read: Callable[[Dataset], Dataset]) -> Dataset:
    return write_read(write_results([analysis], context)[0].dataset)


def test_report_is_a_complete_unverified_measurement_report(report: Dataset) -> None:
    assert report.SOPClassUID == Comprehensive3DSRStorage
    assert report.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert report.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert (report.CompletionFlag, report.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    assert report.SeriesDescription == "overread cxr: findings"
    assert (report.SeriesNumber, report.Modality) == (9001, "SR")


def test_every_label_has_a_group_with_its_certainty_presence_and_severity(report: Dataset) -> None:
    found = {
        child(g, TRACKING).TextValue: (
            float(child(g, CERTAINTY).MeasuredValueSequence[0].NumericValue),
            coded(child(g, PRESENCE)),
            coded(child(g, SEVERITY)),
        )
        for g in groups(report)
    }
    assert found == {
        "cxr Atelectasis": (10.0, "Absent", "None"),
        "cxr Pneumothorax": (90.0, "Present", "Critical"),
        "cxr Cardiomegaly": (60.0, "Present", "High"),
        "cxr Enlarged Cardiomediastinum": (30.0, "Indeterminate", "Low"),
    }
    units = [
        child(g, CERTAINTY).MeasuredValueSequence[0].MeasurementUnitsCodeSequence for g in groups(report)
    ]
    assert {unit[0].CodeValue for unit in units} == {"%"}


def test_certainty_is_the_calibrated_probability_to_four_decimals(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image(), (0.123456789, 1.0, 0.0, 1e-9))
    report = write_results([analysis], context)[0].dataset
    values = [float(child(g, CERTAINTY).MeasuredValueSequence[0].NumericValue) for g in groups(report)]
    assert values == [12.3457, 100.0, 0.0, 0.0]


def test_standard_deviation_of_several_predictions_follows_the_certainty(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image(), deviation=0.0412345678)
    report = write_results([analysis], context)[0].dataset
    for group in groups(report):
        _, deviation = [
            i for i in group.ContentSequence if i.ConceptNameCodeSequence[0].CodeValue == CERTAINTY
        ]
        assert float(deviation.MeasuredValueSequence[0].NumericValue) == 4.1235
        assert coded(child(deviation, "121401")) == "Standard Deviation"
    rows = findings_table(report)
    assert [row.certainty_percent for row in rows] == [90.0, 60.0, 30.0, 10.0]
    assert {row.deviation_percent for row in rows} == {4.1235}


def test_verified_codes_stand_and_unverified_ones_become_private(report: Dataset) -> None:
    used = [child(g, FINDING).ConceptCodeSequence[0] for g in groups(report)]
    assert [(c.CodeValue, c.CodingSchemeDesignator) for c in used[:3]] == [
        ("ATELECTASIS", "99OVERREAD"),
        ("36118008", "SCT"),
        ("287272002", "SCT"),
    ]
    assert used[3].CodingSchemeDesignator == "99OVERREAD"
    assert used[3].CodeMeaning == "Enlarged Cardiomediastinum"
    declared = report.CodingSchemeIdentificationSequence[0]
    assert declared.CodingSchemeDesignator == "99OVERREAD"
    assert declared.CodingSchemeName
    assert declared.CodingSchemeResponsibleOrganization


def test_every_code_is_in_a_dictionary_or_in_the_private_scheme(report: Dataset) -> None:
    known = {
        (scheme, code.value)
        for scheme in ("DCM", "SCT", "LN", "UCUM")
        for code in getattr(codes, scheme).concepts.values()
    }
    # The language of a report is coded by its language tag (PS3.16 section 8.1, RFC 5646).
    schemes_of_their_own = {"99OVERREAD", "RFC5646"}
    used = {
        (str(ds.CodingSchemeDesignator), str(ds.CodeValue))
        for ds in all_datasets(report)
        if "CodeValue" in ds and ds.CodingSchemeDesignator not in schemes_of_their_own
    }
    assert used
    assert used <= known


def all_datasets(dataset: Dataset) -> Iterator[Dataset]:
    yield dataset
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value:
                yield from all_datasets(item)


def test_region_is_a_closed_polyline_in_source_pixels(report: Dataset, analysis: Analysis) -> None:
    region = child(groups(report)[1], IMAGE_REGION)
    points = np.array(region.GraphicData).reshape(-1, 2)
    assert region.GraphicType == "POLYLINE"
    assert (points[0] == points[-1]).all()
    np.testing.assert_allclose(points[:-1], analysis.findings[1].regions[0].points, atol=1e-4)
    source = region.ContentSequence[0].ReferencedSOPSequence[0]
    assert source.ReferencedSOPInstanceUID == analysis.source.sop_instance_uid


def test_each_further_region_is_a_group_of_its_own(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image(), (0.1, 0.9, 0.1, 0.1), regions=2)
    found = groups(write_results([analysis], context)[0].dataset)
    names = [child(g, TRACKING).TextValue for g in found if has(g, IMAGE_REGION)]
    assert names == ["cxr Pneumothorax", "cxr Pneumothorax, region 2"]
    assert len({child(g, TRACKING_UID).UID for g in found}) == len(found) == 5


def test_region_beyond_the_image_is_cut_at_its_edge(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image())
    outside = replace(
        analysis.findings[1].regions[0], points=np.array([[-5, 3], [70, 3], [70, 90]], np.float32)
    )
    findings = tuple(replace(f, regions=(outside,) if f.regions else ()) for f in analysis.findings)
    report = write_results([replace(analysis, findings=findings)], context)[0].dataset
    points = np.array(child(groups(report)[1], IMAGE_REGION).GraphicData).reshape(-1, 2)
    assert points.tolist() == [[0, 3], [50, 3], [50, 60], [0, 3]]


def test_groups_without_region_name_the_image(report: Dataset, analysis: Analysis) -> None:
    source = child(groups(report)[0], SOURCE_OF_MEASUREMENT).ReferencedSOPSequence[0]
    assert source.ReferencedSOPInstanceUID == analysis.source.sop_instance_uid
    assert source.ReferencedSOPClassUID == analysis.source.sop_class_uid


def test_frame_of_a_multi_frame_image_is_named(analysis: Analysis, context: ReportContext) -> None:
    framed = replace(analysis, source=replace(analysis.source, frame=2))
    report, overlay, *_ = (w.dataset for w in write_results([framed], context))
    group = groups(report)[0]
    assert child(group, SOURCE_OF_MEASUREMENT).ReferencedSOPSequence[0].ReferencedFrameNumber == 2
    assert overlay.SourceImageSequence[0].ReferencedFrameNumber == 2


def test_present_findings_are_explained_by_their_overlays(analysis: Analysis, context: ReportContext) -> None:
    report, *overlays = write_results([analysis], context)
    explained = {
        child(g, FINDING).ConceptCodeSequence[0].CodeMeaning: child(g, VISUAL_EXPLANATION)
        .ReferencedSOPSequence[0]
        .ReferencedSOPInstanceUID
        for g in groups(report.dataset)
        if has(g, VISUAL_EXPLANATION)
    }
    assert explained == {
        "Pneumothorax": overlays[0].dataset.SOPInstanceUID,
        "Cardiomegaly": overlays[1].dataset.SOPInstanceUID,
    }


def test_evidence_lists_the_image_and_every_overlay(analysis: Analysis, context: ReportContext) -> None:
    report, *overlays = (w.dataset for w in write_results([analysis], context))
    (study,) = report.CurrentRequestedProcedureEvidenceSequence
    listed = {
        (series.SeriesInstanceUID, instance.ReferencedSOPInstanceUID)
        for series in study.ReferencedSeriesSequence
        for instance in series.ReferencedSOPSequence
    }
    assert study.StudyInstanceUID == analysis.source.study_instance_uid
    assert listed == {
        (analysis.source.series_instance_uid, analysis.source.sop_instance_uid),
        *((o.SeriesInstanceUID, o.SOPInstanceUID) for o in overlays),
    }


def test_model_is_the_contributing_equipment_and_the_observer(report: Dataset, analysis: Analysis) -> None:
    (equipment,) = report.ContributingEquipmentSequence
    assert equipment.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert equipment.Manufacturer == analysis.model.manufacturer
    assert equipment.ManufacturerModelName == analysis.model.name
    assert equipment.SoftwareVersions == analysis.model.version
    assert child(report, "121012").UID == equipment.DeviceUID
    assert child(report, "121014").TextValue == equipment.Manufacturer
    assert child(report, "121015").TextValue == equipment.ManufacturerModelName
    group = groups(report)[0]
    assert child(group, "111001").TextValue == equipment.ManufacturerModelName
    assert child(group, "111003").TextValue == equipment.SoftwareVersions
    assert (report.Manufacturer, report.SoftwareVersions) == ("overread", "0.1.0")


def test_results_name_the_installed_version(analysis: Analysis, context: ReportContext) -> None:
    of_context = ReportContext(job_seed="s", engine_name="cxr", content_datetime=context.content_datetime)
    for written in write_results([analysis], of_context):
        assert written.dataset.SoftwareVersions == version("overread")


def test_another_model_is_another_device(analysis: Analysis, context: ReportContext) -> None:
    retrained = replace(analysis, model=replace(analysis.model, sha256="f" * 64))
    first, second = (
        write_results([a], context)[0].dataset.ContributingEquipmentSequence[0].DeviceUID
        for a in (analysis, retrained)
    )
    assert first != second


@pytest.mark.parametrize(
    ("modality", "code"),
    [("DX", "43468-8"), ("CR", "43468-8"), ("MG", "71651007"), ("CT", "25045-6"), ("XX", "363679005")],
)
def test_procedure_reported_is_that_of_the_modality(
    modality: str,
    code: str,
    make_analysis: Callable[..., Analysis],
    make_image: Callable[..., Path],
    context: ReportContext,
) -> None:
    report = write_results([make_analysis(make_image(Modality=modality))], context)[0].dataset
    assert child(report, "121058").ConceptCodeSequence[0].CodeValue == code


def test_former_report_is_the_predecessor(analysis: Analysis, context: ReportContext) -> None:
    predecessor = PredecessorReport(
        study_instance_uid="1.2.3.1",
        series_instance_uid="2.25.5",
        sop_class_uid=Comprehensive3DSRStorage,
        sop_instance_uid="2.25.6",
    )
    report = write_results([analysis], replace(context, predecessor=predecessor))[0].dataset
    (study,) = report.PredecessorDocumentsSequence
    (series,) = study.ReferencedSeriesSequence
    (instance,) = series.ReferencedSOPSequence
    assert (study.StudyInstanceUID, series.SeriesInstanceUID) == ("1.2.3.1", "2.25.5")
    assert instance.ReferencedSOPInstanceUID == "2.25.6"
    assert instance.ReferencedSOPClassUID == Comprehensive3DSRStorage


def test_without_predecessor_there_is_no_predecessor_sequence(report: Dataset) -> None:
    assert "PredecessorDocumentsSequence" not in report


def test_several_images_share_one_report_and_one_overlay_series(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analyses = [make_analysis(make_image(name)) for name in ("a", "b")]
    report, *overlays = write_results(analyses, context)
    assert [w.kind for w in overlays] == ["overlay"] * 4
    assert [w.dataset.InstanceNumber for w in overlays] == [1, 2, 3, 4]
    assert {w.dataset.SeriesNumber for w in overlays} == {9002}
    assert len({w.dataset.SeriesInstanceUID for w in overlays}) == 1
    assert len({w.dataset.SOPInstanceUID for w in overlays}) == 4
    names = [child(g, TRACKING).TextValue for g in groups(report.dataset)]
    assert "cxr Pneumothorax image 2" in names
    assert len(set(names)) == len(names) == 8


def test_same_arguments_make_the_same_bytes(
    analysis: Analysis, context: ReportContext, tmp_path: Path
) -> None:
    runs = []
    for run in ("first", "second"):
        files = []
        for index, written in enumerate(write_results([analysis], context)):
            path = tmp_path / f"{run}{index}.dcm"
            written.dataset.save_as(path, enforce_file_format=True)
            files.append(path.read_bytes())
        runs.append(files)
    assert runs[0] == runs[1]


def test_another_seed_makes_other_uids(analysis: Analysis, context: ReportContext) -> None:
    first = {w.dataset.SOPInstanceUID for w in write_results([analysis], context)}
    second = {w.dataset.SOPInstanceUID for w in write_results([analysis], replace(context, job_seed="other"))}
    assert not first & second


def test_report_says_not_reviewed_and_why_to_look_again(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image(), review_advised="the ensemble disagrees")
    lines = render_text(write_results([analysis], context)[0].dataset).splitlines()
    assert "  Comment: AI result, not reviewed" in lines
    assert "  Comment: Review advised: the ensemble disagrees" in lines


def test_demonstration_model_is_named_as_such_in_every_object(
    make_analysis: Callable[..., Analysis], make_image: Callable[..., Path], context: ReportContext
) -> None:
    analysis = make_analysis(make_image())
    demonstration = replace(analysis, model=replace(analysis.model, demonstration=True))
    long_name = replace(context, engine_name="chest radiographs of the emergency ward")
    for of_context in (context, long_name):
        described = {}
        for written in write_results([demonstration], of_context):
            description = written.dataset.SeriesDescription
            described[written.kind] = description
            assert description.startswith(of_context.engine_name[:8])
            assert "demonstration model, not for clinical use" in description
            assert len(description) <= 64
        assert len(set(described.values())) == len(described) == 2
        assert " findings: " in described["sr"] and " overlays: " in described["overlay"]
    text = render_text(write_results([demonstration], context)[0].dataset)
    assert "Comment: demonstration model, not for clinical use" in text


def test_series_of_an_engine_with_a_long_name_differ(analysis: Analysis, context: ReportContext) -> None:
    written = write_results([analysis], replace(context, engine_name="engine " * 12))
    descriptions = {w.kind: w.dataset.SeriesDescription for w in written}
    assert descriptions["sr"].endswith(": findings") and descriptions["overlay"].endswith(": overlays")
    assert max(map(len, descriptions.values())) <= 64


def test_text_tree_is_indented_and_names_values(report: Dataset) -> None:
    lines = render_text(report).splitlines()
    assert lines[0] == "Imaging Measurement Report"
    assert "      Certainty of Finding: 90.0 %" in lines
    assert "      Finding: Pneumothorax" in lines
    assert "      Image Region: polyline, 25 points" in lines


def test_image_has_no_text_tree(analysis: Analysis, context: ReportContext) -> None:
    overlay = write_results([analysis], context)[1].dataset
    assert overlay.SOPClassUID == SecondaryCaptureImageStorage
    assert render_text(overlay) == ""


def test_mixed_studies_and_models_and_empty_jobs_are_refused(
    analysis: Analysis, context: ReportContext
) -> None:
    other_study = replace(analysis, source=replace(analysis.source, study_instance_uid="1.2.9"))
    other_model = replace(analysis, model=replace(analysis.model, version="2"))
    with pytest.raises(ValueError, match="one study"):
        write_results([analysis, other_study], context)
    with pytest.raises(ValueError, match="one model"):
        write_results([analysis, other_model], context)
    with pytest.raises(ValueError, match="at least one"):
        write_results([], context)
