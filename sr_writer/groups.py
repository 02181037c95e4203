"""Measurement groups of the report: one for each label of an analysis, negatives included.

A label with regions has a planar ROI group (TID 1410) for each of them, because TID 1410 holds only one region. A
label without regions has one plain group (TID 1501).

References: PS3.16 TID 1410, TID 1501, TID 4019, TID 4108; PS3.3 section C.18.6.1.1 (coordinates).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from highdicom.sr import (
    AlgorithmIdentification,
    FindingSite,
    GraphicTypeValues,
    ImageContentItem,
    ImageRegion,
    Measurement,
    MeasurementsAndQualitativeEvaluations,
    PlanarROIMeasurementsAndQualitativeEvaluations,
    QualitativeEvaluation,
    RelationshipTypeValues,
    SourceImageForMeasurementGroup,
    SourceImageForRegion,
    TrackingIdentifier,
)
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from inference.findings import Finding, Region, SourceImage
from sr_writer.codes import PRESENCE, SEVERITY, SEVERITY_LEVEL, finding_code, verified
from sr_writer.equipment import Algorithm
from sr_writer.strings import LONG_STRING, plain
from sr_writer.uids import derived_uid

MeasurementGroup = MeasurementsAndQualitativeEvaluations | PlanarROIMeasurementsAndQualitativeEvaluations

_CERTAINTY_DECIMALS = 4
"""Decimal places of the certainty in percent."""

_FEWEST_POINTS = 3
"""Fewest points of a polygon that has an area."""


def measurement_groups(
    finding: Finding,
    *,
    image: SourceImage,
    algorithm: Algorithm,
    overlays: Sequence[Dataset],
    tracking_name: str,
    tracking_seed: str,
) -> list[MeasurementGroup]:
    """The groups of one finding.

    Args:
        finding: the finding.
        image: the image that shows it.
        algorithm: the model.
        overlays: the finding's Secondary Captures.
        tracking_name: text of Tracking Identifier.
        tracking_seed: what Tracking Unique Identifier derives from.
    """
    polygons = [polygon for region in finding.regions if (polygon := _polygon(region, image)) is not None]
    groups: list[MeasurementGroup] = []
    for index, polygon in enumerate(polygons or [None]):
        name = tracking_name if index == 0 else f"{tracking_name}, region {index + 1}"
        identifier = TrackingIdentifier(derived_uid(tracking_seed, "tracking", index), name)
        group = _measurement_group(finding, image, algorithm, identifier, polygon)
        add_visual_explanations(group, overlays)
        groups.append(group)
    return groups


def add_visual_explanations(group: Sequence[Dataset], overlays: Sequence[Dataset]) -> None:
    """Add references from a group to the overlays that show where the model looked."""
    for overlay in overlays:
        group[0].ContentSequence.append(_visual_explanation(overlay))


def _measurement_group(
    finding: Finding,
    image: SourceImage,
    algorithm: Algorithm,
    identifier: TrackingIdentifier,
    polygon: NDArray[np.float32] | None,
) -> MeasurementGroup:
    certainty = round(100.0 * finding.calibrated_probability, _CERTAINTY_DECIMALS)
    site = verified(finding.label.site)
    frames = None if image.frame is None else [image.frame]
    algorithm_id = AlgorithmIdentification(
        algorithm.name, algorithm.version, manufacturer=algorithm.manufacturer
    )
    measurements = [Measurement(codes.DCM.CertaintyOfFinding, certainty, codes.UCUM.Percent)]
    if finding.ensemble_std is not None:
        deviation = round(100.0 * finding.ensemble_std, _CERTAINTY_DECIMALS)
        measurements.append(
            Measurement(
                codes.DCM.CertaintyOfFinding,
                deviation,
                codes.UCUM.Percent,
                derivation=codes.SCT.StandardDeviation,
            )
        )
    evaluations = [
        QualitativeEvaluation(codes.DCM.PresenceOfProperty, PRESENCE[finding.presence]),
        QualitativeEvaluation(SEVERITY_LEVEL, SEVERITY[finding.severity]),
    ]
    sites = None if site is None else [FindingSite(site)]
    if polygon is None:
        return MeasurementsAndQualitativeEvaluations(
            identifier,
            finding_type=finding_code(finding.label),
            finding_sites=sites,
            algorithm_id=algorithm_id,
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=[
                SourceImageForMeasurementGroup(image.sop_class_uid, image.sop_instance_uid, frames)
            ],
        )
    return PlanarROIMeasurementsAndQualitativeEvaluations(
        identifier,
        finding_type=finding_code(finding.label),
        finding_sites=sites,
        algorithm_id=algorithm_id,
        measurements=measurements,
        qualitative_evaluations=evaluations,
        referenced_region=ImageRegion(
            GraphicTypeValues.POLYLINE,
            polygon,
            SourceImageForRegion(image.sop_class_uid, image.sop_instance_uid, frames),
        ),
    )


def _polygon(region: Region, image: SourceImage) -> NDArray[np.float32] | None:
    """The region as a closed polyline within the image, shape (n + 1, 2); None if it has no area."""
    if len(region.points) < _FEWEST_POINTS:
        return None
    inside = np.clip(region.points, 0.0, np.array([image.columns, image.rows], dtype=np.float32))
    return np.concatenate([inside, inside[:1]]).astype(np.float32)


def _visual_explanation(overlay: Dataset) -> ImageContentItem:
    """A reference to an overlay as Visual Explanation (130401, DCM)."""
    return ImageContentItem(
        codes.DCM.VisualExplanation,
        overlay.SOPClassUID,
        overlay.SOPInstanceUID,
        relationship_type=RelationshipTypeValues.CONTAINS,
    )


def tracking_name(engine_name: str, finding: Finding, image_number: int | None) -> str:
    """Text of a finding's Tracking Identifier; ``image_number`` is None if the job has only one image."""
    parts = [engine_name, finding.label.name, "" if image_number is None else f"image {image_number}"]
    return plain(" ".join(part for part in parts if part), LONG_STRING)
