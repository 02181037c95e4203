"""The overlay: a Secondary Capture in colour of the picture under a heat map, with a legend burned in.

References: PS3.3 sections A.8.1 (Secondary Capture Image IOD), C.7.6.1 (General Image), C.8.6.1
(SC Equipment).
"""

from __future__ import annotations

from PIL import Image
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import SecondaryCaptureImageStorage

from inference.findings import Analysis, Detection
from sr_writer.codes import RISK
from sr_writer.context import ReportContext
from sr_writer.elements import code_sequence, item, set_items, text_element
from sr_writer.equipment import DEMONSTRATION_NOTICE, UNREVIEWED_NOTICE
from sr_writer.instance import complete_instance
from sr_writer.lossy import copy_lossy_compression
from sr_writer.overlay_picture import Legend, draw_overlay
from sr_writer.overlay_pixels import set_pixels
from sr_writer.shown import ShownPicture
from sr_writer.source import SourceHeader
from sr_writer.strings import LONG_STRING, SHORT_TEXT, plain
from sr_writer.uids import derived_uid


def write_overlay(
    analysis: Analysis, shown: ShownPicture, source: SourceHeader, context: ReportContext, *, number: int
) -> Dataset:
    """The overlay of one picture of an analysis, with pixels; ``number`` counts the job's overlays from 1."""
    overlay = Dataset()
    overlay.SOPClassUID = SecondaryCaptureImageStorage
    overlay.SOPInstanceUID = _instance_uid(context, number)
    overlay.SeriesInstanceUID = derived_uid(context.job_seed, "overlay series")
    overlay.SeriesNumber = context.series_number + 1
    overlay.InstanceNumber = number
    overlay.Modality = source.text("Modality") or "OT"
    overlay.ConversionType = "WSD"
    source.copy_series_context(overlay)
    _set_derivation(overlay, analysis, shown)
    copy_lossy_compression(source, overlay)
    complete_instance(overlay, source, context, analysis.model, title="overlays")
    set_pixels(overlay, draw(analysis, shown, context.engine_name), context.overlay_compression)
    return overlay


def _instance_uid(context: ReportContext, number: int) -> str:
    """SOP Instance UID of an overlay: a picture with loss is another one (PS3.3 section C.7.6.1.1.5)."""
    if context.overlay_compression == "none":
        return derived_uid(context.job_seed, "overlay", number)
    return derived_uid(context.job_seed, "overlay", number, context.overlay_compression)


def draw(analysis: Analysis, shown: ShownPicture, engine_name: str) -> Image.Image:
    """The picture of an overlay, of mode RGB."""
    return draw_overlay(shown, _legend(analysis, shown, engine_name))


def _legend(analysis: Analysis, shown: ShownPicture, engine_name: str) -> Legend:
    thresholds = shown.label.thresholds
    severity = f"Severity level: {thresholds.severity(shown.certainty)}"
    notices = [UNREVIEWED_NOTICE]
    if analysis.model.demonstration:
        notices.append(DEMONSTRATION_NOTICE)
    return Legend(
        finding=plain(shown.label.name, LONG_STRING),
        title=plain(shown.title, LONG_STRING),
        probability=shown.certainty,
        deviation=shown.deviation,
        thresholds=thresholds,
        presence=thresholds.presence(shown.certainty),
        statements=(severity,) if shown.detection is None else _lesion_statements(shown.detection),
        method=plain(shown.heatmap.method, LONG_STRING),
        engine=plain(engine_name, LONG_STRING),
        model=plain(analysis.model.name, LONG_STRING),
        version=plain(analysis.model.version, LONG_STRING),
        notices=tuple(notices),
        disclaimer=plain(analysis.disclaimer, SHORT_TEXT),
    )


def _lesion_statements(detection: Detection) -> tuple[str, ...]:
    """Lines about a lesion, as in the report: with its risk and without a severity, which follows from certainty."""
    statements = [
        f"Diameter: {detection.diameter_mm:.1f} mm",
        f"Volume: {detection.volume_mm3:.0f} mm3",
    ]
    if detection.malignancy is not None:
        statements.append(f"Malignancy: {100 * detection.malignancy:.1f} %")
    if detection.risk is not None:
        statements.append(RISK[detection.risk].meaning)
    return tuple(statements)


def _set_derivation(overlay: Dataset, analysis: Analysis, shown: ShownPicture) -> None:
    image = item(
        text_element("ReferencedSOPClassUID", shown.source.sop_class_uid),
        text_element("ReferencedSOPInstanceUID", shown.source.sop_instance_uid),
        b"" if shown.source.frame is None else text_element("ReferencedFrameNumber", str(shown.source.frame)),
        code_sequence("PurposeOfReferenceCodeSequence", codes.DCM.SourceImageForImageProcessingOperation),
    )
    set_items(overlay, "SourceImageSequence", [image])
    overlay.ImageType = ["DERIVED", "SECONDARY"]
    method = shown.heatmap.method
    heat_map = method if method.endswith(" map") else f"{method} heat map"
    description = f"{heat_map} for {shown.label.name} blended over the source image"
    overlay.DerivationDescription = plain(description, SHORT_TEXT)
    notice = f"; {DEMONSTRATION_NOTICE}" if analysis.model.demonstration else ""
    overlay.ImageComments = f"{UNREVIEWED_NOTICE}{notice}"
