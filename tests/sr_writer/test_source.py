"""What a result takes over from its source, byte for byte."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, timedelta, timezone
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from inference.findings import Analysis
from sr_writer import ReportContext, result_attributes, write_results

MakeAnalysis = Callable[..., Analysis]
MakeImage = Callable[..., Path]
WriteRead = Callable[[Dataset], Dataset]

TYPE_2 = [
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "AccessionNumber",
    "ReferringPhysicianName",
]

JAPANESE = "Yamada^Tarou=\u5c71\u7530^\u592a\u90ce=\u3084\u307e\u3060^\u305f\u308d\u3046"


def raw(path: Path, keyword: str) -> bytes | None:
    """Encoded value of an attribute in a file."""
    value = pydicom.dcmread(path).get_item(keyword).value
    assert value is None or isinstance(value, bytes)
    return value


@pytest.mark.parametrize("implicit", [False, True])
@pytest.mark.parametrize(
    ("character_set", "name", "description"),
    [
        (None, "Doe^Jane", "Chest"),
        ("ISO_IR 100", "M\u00fcller^J\u00f6rg", "R\u00f6ntgen"),
        (["", "ISO 2022 IR 87"], JAPANESE, "\u80f8\u90e8"),
        ("ISO_IR 192", "\u738b^\u5c0f\u660e", "\u80f8\u90e8 \u0440\u0435\u043d\u0442\u0433\u0435\u043d"),
    ],
)
def test_names_come_back_identical_in_every_character_set(
    character_set: str | list[str] | None,
    name: str,
    description: str,
    implicit: bool,
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    context: ReportContext,
    tmp_path: Path,
) -> None:
    attributes = {} if character_set is None else {"SpecificCharacterSet": character_set}
    source = make_image(
        implicit=implicit, **attributes, PatientName=name, StudyDescription=description, PatientID="4"
    )
    for index, written in enumerate(write_results([make_analysis(source)], context)):
        path = tmp_path / f"result{index}.dcm"
        written.dataset.save_as(path, enforce_file_format=True)
        result = pydicom.dcmread(path)
        assert result.get("SpecificCharacterSet") == pydicom.dcmread(source).get("SpecificCharacterSet")
        assert str(result.PatientName) == name
        assert result.StudyDescription == description
        assert raw(path, "PatientName") == raw(source, "PatientName")
        assert raw(path, "StudyDescription") == raw(source, "StudyDescription")
        assert result_attributes(written.dataset)["PatientName"] == name


def test_minimal_header_gives_empty_type_2_attributes(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, write_read: WriteRead
) -> None:
    for written in write_results([make_analysis(make_image())], context):
        result = write_read(written.dataset)
        for keyword in TYPE_2:
            assert keyword in result
            assert not result.get(keyword)
        assert "SpecificCharacterSet" not in result


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", b"A=B=C=D^^^^^^^^^^\\X "),
        ("PatientName", b"x" * 300),
        ("PatientName", b"\xff\xfe\x1b$B"),
        ("PatientSex", b"MALE"),
        ("PatientBirthDate", b"1.2.1960"),
        ("StudyDate", b"yesterday "),
        ("PatientID", b"9" * 90),
        ("AccessionNumber", b"very long accession number"),
    ],
)
def test_unusual_identity_reaches_the_result_unchanged_and_unlogged(
    keyword: str,
    value: bytes,
    make_analysis: MakeAnalysis,
    make_image: MakeImage,
    context: ReportContext,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = make_image(SpecificCharacterSet="ISO_IR 192", PatientName="P" * 64)
    analysis = make_analysis(source)
    _overwrite(source, keyword, value)
    with warnings.catch_warnings(record=True) as caught, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        results = write_results([analysis], context)
        for index, written in enumerate(results):
            result_attributes(written.dataset)
            written.dataset.save_as(tmp_path / f"{index}.dcm", enforce_file_format=True)
    for index in range(len(results)):
        assert raw(tmp_path / f"{index}.dcm", keyword) == value
    messages = [str(w.message) for w in caught] + caplog.messages
    assert not [m for m in messages if value.decode("latin-1").strip() in m]


def _overwrite(path: Path, keyword: str, value: bytes) -> None:
    """Puts a value into a file as it is, valid or not."""
    dataset = pydicom.dcmread(path)
    vr = pydicom.datadict.dictionary_VR(keyword)
    tag = pydicom.tag.Tag(keyword)
    dataset[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)
    dataset.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(("keyword", "value"), [("PatientAge", b"62"), ("PatientWeight", b"heavy ")])
def test_optional_attribute_of_wrong_form_is_left_out(
    keyword: str, value: bytes, make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    source = make_image()
    analysis = make_analysis(source)
    _overwrite(source, keyword, value)
    for written in write_results([analysis], context):
        assert keyword not in written.dataset


def test_request_of_the_source_becomes_the_referenced_request(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, write_read: WriteRead
) -> None:
    request = Dataset()
    request.RequestedProcedureID = "RP1"
    request.RequestedProcedureDescription = "\u80f8\u90e8"
    source = make_image(
        SpecificCharacterSet="ISO_IR 192", AccessionNumber="A7", RequestAttributesSequence=[request]
    )
    report = write_read(write_results([make_analysis(source)], context)[0].dataset)
    (item,) = report.ReferencedRequestSequence
    assert (item.RequestedProcedureID, item.AccessionNumber) == ("RP1", "A7")
    assert item.RequestedProcedureDescription == "\u80f8\u90e8"
    assert item.StudyInstanceUID == report.StudyInstanceUID


def test_dates_are_in_the_zone_of_the_source_and_else_of_the_context(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext
) -> None:
    in_tokyo = make_analysis(make_image("a", TimezoneOffsetFromUTC="+0900"))
    nowhere = make_analysis(make_image("b"))
    tokyo = write_results([in_tokyo], context)[0].dataset
    assert (tokyo.ContentDate, tokyo.ContentTime) == ("20260305", "083015")
    assert result_attributes(tokyo)["TimezoneOffsetFromUTC"] == "+0900"
    west = replace(context, timezone=timezone(timedelta(hours=-5)))
    for written in write_results([nowhere], west):
        assert (written.dataset.SeriesDate, written.dataset.SeriesTime) == ("20260304", "183015")
        assert "TimezoneOffsetFromUTC" not in written.dataset


def test_time_without_zone_is_refused(context: ReportContext) -> None:
    with pytest.raises(ValueError, match="UTC"):
        replace(context, content_datetime=context.content_datetime.replace(tzinfo=None))
    assert context.content_datetime.tzinfo is UTC


def test_attributes_for_queries_are_text_lists_and_none(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, write_read: WriteRead
) -> None:
    source = make_image(Modality="DX", PatientID="7", PatientName="Doe^Jane", StudyDate="20260301")
    report, overlay, *_ = write_results([make_analysis(source)], context)
    attributes = result_attributes(report.dataset)
    assert attributes["Modality"] == "SR"
    assert attributes["PatientName"] == "Doe^Jane"
    assert attributes["StudyDate"] == "20260301"
    assert attributes["AccessionNumber"] is None
    assert attributes["SeriesNumber"] == "9001"
    assert attributes["SeriesDescription"] == "overread cxr: findings"
    assert attributes["SeriesInstanceUID"] == report.dataset.SeriesInstanceUID
    of_overlay = result_attributes(overlay.dataset)
    assert of_overlay["ImageType"] == ["DERIVED", "SECONDARY"]
    assert of_overlay["Rows"] == str(overlay.dataset.Rows)
    assert result_attributes(write_read(report.dataset)) == attributes
    assert result_attributes(write_read(overlay.dataset)) == of_overlay
