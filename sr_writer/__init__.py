"""Findings to DICOM objects: Structured Reports on TID 1500 and overlays as Secondary Captures."""

from sr_writer.attributes import result_attributes
from sr_writer.context import PredecessorReport, ReportContext, ResultKind, WrittenObject
from sr_writer.results import write_results
from sr_writer.text import render_text

__all__ = [
    "PredecessorReport",
    "ReportContext",
    "ResultKind",
    "WrittenObject",
    "render_text",
    "result_attributes",
    "write_results",
]
