"""The Structured Report: a Comprehensive 3D SR on TID 1500, as IHE AI Results requires.

References: PS3.3 section A.35.13 (Comprehensive 3D SR IOD), PS3.16 TID 1500, IHE Radiology AI Results.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Analysis
from sr_writer import content
from sr_writer.codes import procedure_reported
from sr_writer.content import Relationship
from sr_writer.context import ReportContext
from sr_writer.document import InstanceReference, new_document
from sr_writer.equipment import DEMONSTRATION_NOTICE, UNREVIEWED_NOTICE, Algorithm
from sr_writer.groups import measurement_groups, tracking_name
from sr_writer.instance import complete_instance
from sr_writer.source import SourceHeader
from sr_writer.strings import LONG_STRING, SHORT_TEXT, plain
from sr_writer.uids import derived_uid
from sr_writer.volumetric import detection_group, structure_groups

_LANGUAGE = codes.DCM.LanguageOfContentItemAndDescendants
_ENGLISH = Code("en-US", "RFC5646", "English (United States)")
_OBSERVER_TYPE = codes.DCM.ObserverType
_DEVICE = codes.DCM.Device
_DEVICE_UID = codes.DCM.DeviceObserverUID
_DEVICE_NAME = codes.DCM.DeviceObserverName
_DEVICE_MANUFACTURER = codes.DCM.DeviceObserverManufacturer
_DEVICE_MODEL_NAME = codes.DCM.DeviceObserverModelName
_PROCEDURE_REPORTED = codes.DCM.ProcedureReported
_IMAGING_MEASUREMENTS = codes.DCM.ImagingMeasurements
_COMMENT = codes.DCM.Comment

Overlays = dict[tuple[int, str | int], list[Dataset]]
"""Secondary Captures by index of the analysis and either name of the label or number of the detection."""


def write_report(
    analyses: Sequence[Analysis],
    sources: Sequence[SourceHeader],
    overlays: Overlays,
    segmentations: Mapping[int, Dataset],
    context: ReportContext,
) -> Dataset:
    """The report on all analyses of a job.

    Args:
        analyses: the analyses.
        sources: headers of their images, in the same order.
        overlays: Secondary Captures that the report refers to.
        segmentations: Segmentations that the report refers to, by index of the analysis.
        context: the job.
    """
    algorithm = Algorithm.of_model(analyses[0].model)
    report = new_document(
        _content(analyses, sources, overlays, segmentations, context, algorithm),
        series_instance_uid=derived_uid(context.job_seed, "report series"),
        sop_instance_uid=derived_uid(context.job_seed, "report"),
        series_number=context.series_number,
        evidence=_references(analyses, [*chain(*overlays.values()), *segmentations.values()]),
        predecessors=[] if context.predecessor is None else [context.predecessor],
        requests=sources[0].referenced_requests(),
    )
    complete_instance(report, sources[0], context, analyses[0].model, title="findings")
    return report


def _content(
    analyses: Sequence[Analysis],
    sources: Sequence[SourceHeader],
    overlays: Overlays,
    segmentations: Mapping[int, Dataset],
    context: ReportContext,
    algorithm: Algorithm,
) -> list[bytes]:
    """The content items below the root of the content tree (TID 1500), encoded."""
    groups = _groups(analyses, overlays, segmentations, context, algorithm)
    if not groups:
        raise ValueError("a report needs at least one measurement group")
    observer = Relationship.HAS_OBS_CONTEXT
    return [
        content.code(Relationship.HAS_CONCEPT_MOD, _LANGUAGE, _ENGLISH),
        content.code(observer, _OBSERVER_TYPE, _DEVICE),
        content.uid_reference(observer, _DEVICE_UID, algorithm.device_uid),
        content.text(observer, _DEVICE_NAME, plain(f"overread {context.engine_name}", LONG_STRING)),
        content.text(observer, _DEVICE_MANUFACTURER, algorithm.manufacturer),
        content.text(observer, _DEVICE_MODEL_NAME, algorithm.name),
        content.code(
            Relationship.HAS_CONCEPT_MOD,
            _PROCEDURE_REPORTED,
            procedure_reported(sources[0].text("Modality")),
        ),
        content.container(Relationship.CONTAINS, _IMAGING_MEASUREMENTS, groups),
        *(content.text(Relationship.CONTAINS, _COMMENT, comment) for comment in _comments(analyses)),
    ]


def _groups(
    analyses: Sequence[Analysis],
    overlays: Overlays,
    segmentations: Mapping[int, Dataset],
    context: ReportContext,
    algorithm: Algorithm,
) -> list[bytes]:
    """The measurement groups of all analyses, encoded."""
    groups: list[bytes] = []
    for index, analysis in enumerate(analyses):
        image_number = index + 1 if len(analyses) > 1 else None
        for finding in analysis.findings:
            groups += measurement_groups(
                finding,
                image=finding.image or analysis.source,
                algorithm=algorithm,
                overlays=overlays.get((index, finding.label.name), ()),
                tracking_name=tracking_name(context.engine_name, finding, image_number),
                tracking_seed=derived_uid(context.job_seed, "finding", index, finding.label.name),
            )
        for detection in (analysis.detections or ()) if analysis.volume is not None else ():
            shown = overlays.get((index, detection.number), ())
            groups.append(detection_group(detection, analysis, shown, algorithm, context, index=index))
        if index in segmentations and analysis.segmentation is not None and not analysis.detections:
            groups += structure_groups(
                analysis,
                analysis.segmentation,
                segmentations[index],
                algorithm,
                context,
                index=index,
                beside_findings=any(a.findings for a in analyses),
            )
    return groups


def _comments(analyses: Sequence[Analysis]) -> list[str]:
    """The report's comments: its status, the notice of a bundled model, disclaimers, advice to review, remarks."""
    comments = [UNREVIEWED_NOTICE]
    if analyses[0].model.demonstration:
        comments.append(DEMONSTRATION_NOTICE)
    disclaimers = dict.fromkeys(analysis.disclaimer for analysis in analyses if analysis.disclaimer)
    comments += [plain(disclaimer, SHORT_TEXT) for disclaimer in disclaimers]
    for index, analysis in enumerate(analyses):
        if analysis.review_advised is not None:
            image = f" (image {index + 1})" if len(analyses) > 1 else ""
            comments.append(plain(f"Review advised{image}: {analysis.review_advised}", SHORT_TEXT))
        comments += [plain(remark, SHORT_TEXT) for remark in analysis.remarks]
    return comments


def _references(analyses: Sequence[Analysis], written: Sequence[Dataset]) -> list[InstanceReference]:
    """References to the source images, then to the overlays and segmentations."""
    images = [
        InstanceReference(
            study_instance_uid=image.study_instance_uid,
            series_instance_uid=image.series_instance_uid,
            sop_class_uid=image.sop_class_uid,
            sop_instance_uid=image.sop_instance_uid,
        )
        for analysis in analyses
        for image in (analysis.source, *(analysis.volume.images if analysis.volume else ()))
    ]
    return images + [
        InstanceReference(
            study_instance_uid=instance.StudyInstanceUID,
            series_instance_uid=instance.SeriesInstanceUID,
            sop_class_uid=instance.SOPClassUID,
            sop_instance_uid=instance.SOPInstanceUID,
        )
        for instance in written
    ]
