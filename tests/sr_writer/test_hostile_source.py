"""Sources that are hostile in what reports take over from them: no report crashes, loops or quotes a value."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataelem import RawDataElement
from pydicom.tag import Tag

from inference.findings import Analysis
from sr_writer import ReportContext, write_results

MakeAnalysis = Callable[..., Analysis]
MakeImage = Callable[..., Path]


def nested(depth: int) -> bytes:
    """Items of a sequence of defined length that hold the same sequence, that many levels deep."""
    value = b""
    for _ in range(depth):
        item = struct.pack("<HHL", 0xFFFE, 0xE000, len(value)) + value
        value = struct.pack("<HH2sHL", 0x0040, 0x0275, b"SQ", 0, len(item)) + item
    return value[12:]


@pytest.mark.parametrize("keyword", ["RequestAttributesSequence", "ProcedureCodeSequence"])
def test_sequences_nested_too_deeply_end_in_an_error_or_a_report(
    make_analysis: MakeAnalysis, make_image: MakeImage, context: ReportContext, tmp_path: Path, keyword: str
) -> None:
    source = make_image()
    analysis = make_analysis(source)
    dataset = pydicom.dcmread(source)
    tag, value = Tag(keyword), nested(3000)
    dataset[tag] = RawDataElement(tag, "SQ", len(value), value, 0, False, True)
    dataset.save_as(source)
    try:
        for written in write_results([analysis], context):
            written.dataset.save_as(tmp_path / "result.dcm", enforce_file_format=True)
    except (RecursionError, ValueError) as error:
        assert "Canary" not in str(error)
