"""Volumetric measurement groups of the report (TID 1411): lesions in patient coordinates and segmented structures.

References: PS3.16 TID 1411, TID 1419; PS3.3 section C.18.9.1.2 (ELLIPSOID).
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Analysis, Detection, Segmentation
from sr_writer import content
from sr_writer.codes import MILLILITER, PRESENCE, RISK, RISK_CATEGORY, finding_code, verified
from sr_writer.content import Relationship
from sr_writer.context import ReportContext
from sr_writer.equipment import Algorithm
from sr_writer.groups import (
    SOURCE_OF_MEASUREMENT,
    Tracking,
    evaluation,
    finding_site,
    group,
    visual_explanations,
)
from sr_writer.segmentation import laterality, segment_number, tracking_identifiers, type_code

_VOLUME_SURFACE = codes.DCM.VolumeSurface
_REFERENCED_SEGMENT = codes.DCM.ReferencedSegment
_SOURCE_SERIES = Code("121232", "DCM", "Source Series for Segmentation")

_DECIMALS = 4


def detection_group(
    detection: Detection,
    analysis: Analysis,
    overlays: Sequence[Dataset],
    algorithm: Algorithm,
    context: ReportContext,
    *,
    index: int,
) -> bytes:
    """The group of a lesion: an ellipsoid with its size, density and certainty, as an encoded content item.

    Args:
        detection: the lesion.
        analysis: its analysis, which is of a volume.
        overlays: the lesion's Secondary Captures.
        algorithm: the model.
        context: the job.
        index: index of the analysis in the job.

    Raises:
        ValueError: the analysis is not of a volume.
    """
    if analysis.volume is None:
        raise ValueError("a lesion in patient coordinates needs the volume that it was found in")
    site = verified(detection.label.site)
    density = codes.DCM.AttenuationCoefficient
    hounsfield = codes.UCUM.HounsfieldUnit
    values = [
        _measurement(codes.DCM.CertaintyOfFinding, 100 * detection.certainty, codes.UCUM.Percent),
        _measurement(codes.SCT.Diameter, detection.diameter_mm, codes.UCUM.Millimeter),
        _measurement(codes.SCT.Volume, detection.volume_mm3, codes.UCUM.CubicMillimeter),
        _measurement(density, detection.mean_hu, hounsfield, codes.SCT.Mean),
        _measurement(density, detection.std_hu, hounsfield, codes.SCT.StandardDeviation),
    ]
    if detection.malignancy is not None:
        values.append(
            _measurement(codes.DCM.ProbabilityOfCancer, 100 * detection.malignancy, codes.UCUM.Percent)
        )
    presence = detection.label.thresholds.presence(detection.certainty)
    values.append(evaluation(codes.DCM.PresenceOfProperty, PRESENCE[presence]))
    if detection.risk is not None:
        values.append(evaluation(RISK_CATEGORY, RISK[detection.risk]))
    values.append(
        content.ellipsoid(_VOLUME_SURFACE, detection.ellipsoid, analysis.volume.frame_of_reference_uid)
    )
    values.append(_source_series(analysis))
    name = f"{detection.label.name} {detection.number}"
    return group(
        "1411",
        _tracking(context, index, detection.number, name),
        finding_code(detection.label),
        [] if site is None else [finding_site(site)],
        algorithm,
        values + visual_explanations(overlays),
    )


def structure_groups(
    analysis: Analysis,
    segmentation: Segmentation,
    segmented: Dataset,
    algorithm: Algorithm,
    context: ReportContext,
    *,
    index: int,
    beside_findings: bool,
) -> list[bytes]:
    """A group for each segment: its volume, and the side of the body if its name contains one.

    A report of structures alone has volumetric groups (TID 1411). In a report with findings, they are plain groups
    (TID 1501), with the segment as the source of the measurement. The reason: once one group refers to a segment,
    DicomSRValidator demands a region in every group, and findings of a whole volume have none.

    Args:
        analysis: the analysis.
        segmentation: its label maps.
        segmented: the Segmentation object.
        algorithm: the model.
        context: the job.
        index: index of the analysis in the job.
        beside_findings: whether the report has findings too.
    """
    groups: list[bytes] = []
    for structure in segmentation.structures:
        side = laterality(structure)
        kind = type_code(structure)
        segment = content.image(
            Relationship.CONTAINS,
            SOURCE_OF_MEASUREMENT if beside_findings else _REFERENCED_SEGMENT,
            segmented.SOPClassUID,
            segmented.SOPInstanceUID,
            segment=segment_number(segmentation, structure.value),
        )
        volume = _measurement(codes.SCT.Volume, structure.volume_mm3 / 1000, MILLILITER)
        groups.append(
            group(
                "1501" if beside_findings else "1411",
                _tracking(context, index, structure.value, structure.name),
                kind,
                [] if side is None else [finding_site(kind, side)],
                algorithm,
                [volume, segment] if beside_findings else [volume, segment, _source_series(analysis)],
            )
        )
    return groups


def _tracking(context: ReportContext, index: int, number: int, name: str) -> Tracking:
    uid, text = tracking_identifiers(context, index, number, name)
    return Tracking(uid=uid, name=text)


def _source_series(analysis: Analysis) -> bytes:
    return content.uid_reference(Relationship.CONTAINS, _SOURCE_SERIES, analysis.source.series_instance_uid)


def _measurement(name: Code, value: float, unit: Code, derivation: Code | None = None) -> bytes:
    return content.number(name, round(float(value), _DECIMALS), unit, derivation)
