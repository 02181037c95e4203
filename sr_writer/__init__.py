"""Writes findings as DICOM objects: Structured Reports on TID 1500, overlays as Secondary Captures, Segmentations.

Other rooms import only the names below, and none of this room's modules.
"""

from sr_writer.attributes import result_attributes
from sr_writer.context import (
    OverlayCompression,
    PredecessorReport,
    ReportContext,
    ResultKind,
    WrittenObject,
)
from sr_writer.encoding import encode
from sr_writer.results import overlay_pictures, write_results
from sr_writer.text import findings_table, render_text

__all__ = [
    "OverlayCompression",
    "PredecessorReport",
    "ReportContext",
    "ResultKind",
    "WrittenObject",
    "encode",
    "findings_table",
    "overlay_pictures",
    "render_text",
    "result_attributes",
    "write_results",
]
