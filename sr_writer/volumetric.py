"""Volumetric measurement groups of the report (TID 1411): lesions in patient coordinates and segmented structures.

References: PS3.16 TID 1411, TID 1419; PS3.3 section C.18.9.1.2 (ELLIPSOID).
"""

from __future__ import annotations

from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    GraphicTypeValues3D,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    ReferencedSegment,
    SourceImageForMeasurementGroup,
    SourceSeriesForSegmentation,
    TrackingIdentifier,
    VolumeSurface,
    VolumetricROIMeasurementsAndQualitativeEvaluations,
)
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Analysis, Detection, Segmentation
from sr_writer.codes import MILLILITER, PRESENCE, RISK, RISK_CATEGORY, finding_code, verified
from sr_writer.context import ReportContext
from sr_writer.equipment import Algorithm
from sr_writer.segmentation import laterality, segment_number, tracking_identifiers, type_code

VolumetricGroup = VolumetricROIMeasurementsAndQualitativeEvaluations

_DECIMALS = 4


def detection_groups(
    analysis: Analysis, algorithm: Algorithm, context: ReportContext, *, index: int
) -> list[tuple[Detection, VolumetricGroup]]:
    """A group for each detection of an analysis: an ellipsoid with its size, density and certainty.

    ``index`` is that of the analysis in the job.
    """
    if analysis.volume is None:
        return []
    frame_of_reference_uid = analysis.volume.frame_of_reference_uid
    return [
        (detection, _detection_group(detection, analysis, frame_of_reference_uid, algorithm, context, index))
        for detection in analysis.detections or ()
    ]


def _detection_group(
    detection: Detection,
    analysis: Analysis,
    frame_of_reference_uid: str,
    algorithm: Algorithm,
    context: ReportContext,
    index: int,
) -> VolumetricGroup:
    site = verified(detection.label.site)
    measurements = [
        _measurement(codes.DCM.CertaintyOfFinding, 100 * detection.certainty, codes.UCUM.Percent),
        _measurement(codes.SCT.Diameter, detection.diameter_mm, codes.UCUM.Millimeter),
        _measurement(codes.SCT.Volume, detection.volume_mm3, codes.UCUM.CubicMillimeter),
        Measurement(
            codes.DCM.AttenuationCoefficient,
            round(detection.mean_hu, _DECIMALS),
            codes.UCUM.HounsfieldUnit,
            derivation=codes.SCT.Mean,
        ),
        Measurement(
            codes.DCM.AttenuationCoefficient,
            round(detection.std_hu, _DECIMALS),
            codes.UCUM.HounsfieldUnit,
            derivation=codes.SCT.StandardDeviation,
        ),
    ]
    evaluations = [
        QualitativeEvaluation(
            codes.DCM.PresenceOfProperty,
            PRESENCE[detection.label.thresholds.presence(detection.certainty)],
        )
    ]
    if detection.malignancy is not None:
        measurements.append(
            _measurement(codes.DCM.ProbabilityOfCancer, 100 * detection.malignancy, codes.UCUM.Percent)
        )
    if detection.risk is not None:
        evaluations.append(QualitativeEvaluation(RISK_CATEGORY, RISK[detection.risk]))
    return VolumetricROIMeasurementsAndQualitativeEvaluations(
        TrackingIdentifier(
            *tracking_identifiers(
                context, index, detection.number, f"{detection.label.name} {detection.number}"
            )
        ),
        referenced_volume_surface=VolumeSurface(
            GraphicTypeValues3D.ELLIPSOID,
            detection.ellipsoid,
            frame_of_reference_uid,
            source_series=SourceSeriesForSegmentation(analysis.source.series_instance_uid),
        ),
        finding_type=finding_code(detection.label),
        algorithm_id=_algorithm(algorithm),
        finding_sites=None if site is None else [FindingSite(site)],
        measurements=measurements,
        qualitative_evaluations=evaluations,
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
) -> list[VolumetricGroup | MeasurementsAndQualitativeEvaluations]:
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
    groups: list[VolumetricGroup | MeasurementsAndQualitativeEvaluations] = []
    for structure in segmentation.structures:
        identifier = TrackingIdentifier(
            *tracking_identifiers(context, index, structure.value, structure.name)
        )
        side = laterality(structure)
        sites = None if side is None else [FindingSite(type_code(structure), laterality=side)]
        volume = [_measurement(codes.SCT.Volume, structure.volume_mm3 / 1000, MILLILITER)]
        number = segment_number(segmentation, structure.value)
        if beside_findings:
            source = SourceImageForMeasurementGroup(segmented.SOPClassUID, segmented.SOPInstanceUID)
            source.ReferencedSOPSequence[0].ReferencedSegmentNumber = number
            groups.append(
                MeasurementsAndQualitativeEvaluations(
                    identifier,
                    finding_type=type_code(structure),
                    algorithm_id=_algorithm(algorithm),
                    finding_sites=sites,
                    measurements=volume,
                    source_images=[source],
                )
            )
            continue
        groups.append(
            VolumetricROIMeasurementsAndQualitativeEvaluations(
                identifier,
                referenced_segment=ReferencedSegment(
                    segmented.SOPClassUID,
                    segmented.SOPInstanceUID,
                    number,
                    source_series=SourceSeriesForSegmentation(analysis.source.series_instance_uid),
                ),
                finding_type=type_code(structure),
                algorithm_id=_algorithm(algorithm),
                finding_sites=sites,
                measurements=volume,
            )
        )
    return groups


def _measurement(name: Code, value: float, unit: Code) -> Measurement:
    return Measurement(name, round(float(value), _DECIMALS), unit)


def _algorithm(algorithm: Algorithm) -> AlgorithmIdentification:
    return AlgorithmIdentification(algorithm.name, algorithm.version, manufacturer=algorithm.manufacturer)
