"""Measurement groups of the report: one for each label of an analysis, negatives included.

A label with regions has a planar ROI group (TID 1410) for each of them, because TID 1410 holds only one region. A
label without regions has one plain group (TID 1501).

References: PS3.16 TID 1410, TID 1501, TID 4019, TID 4108; PS3.3 section C.18.6.1.1 (coordinates).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from inference.findings import Finding, Region, SourceImage
from sr_writer import content
from sr_writer.codes import PRESENCE, SEVERITY, SEVERITY_LEVEL, finding_code, verified
from sr_writer.content import Relationship
from sr_writer.equipment import Algorithm
from sr_writer.strings import LONG_STRING, plain
from sr_writer.uids import derived_uid

_CERTAINTY = codes.DCM.CertaintyOfFinding
_PERCENT = codes.UCUM.Percent
_STANDARD_DEVIATION = codes.SCT.StandardDeviation
_PRESENCE_OF_PROPERTY = codes.DCM.PresenceOfProperty
_MEASUREMENT_GROUP = codes.DCM.MeasurementGroup
_TRACKING_IDENTIFIER = codes.DCM.TrackingIdentifier
_TRACKING_UNIQUE_IDENTIFIER = codes.DCM.TrackingUniqueIdentifier
_FINDING = codes.DCM.Finding
_FINDING_SITE = codes.SCT.FindingSite
_LATERALITY = codes.SCT.Laterality
_ALGORITHM_NAME = codes.DCM.AlgorithmName
_ALGORITHM_VERSION = codes.DCM.AlgorithmVersion
_ALGORITHM_MANUFACTURER = codes.DCM.AlgorithmManufacturer
_IMAGE_REGION = codes.DCM.ImageRegion
_VISUAL_EXPLANATION = codes.DCM.VisualExplanation
_SOURCE = Code("260753009", "SCT", "Source")

SOURCE_OF_MEASUREMENT: Code = codes.DCM.SourceOfMeasurement
"""Concept name of the image that a plain group is about (TID 1501)."""

_CERTAINTY_DECIMALS = 4
"""Decimal places of the certainty in percent."""

_FEWEST_POINTS = 3
"""Fewest points of a polygon that has an area."""


@dataclass(frozen=True, kw_only=True)
class Tracking:
    """Tracking Unique Identifier and Tracking Identifier, by which a finding is found again in other objects."""

    uid: str
    name: str


def measurement_groups(
    finding: Finding,
    *,
    image: SourceImage,
    algorithm: Algorithm,
    overlays: Sequence[Dataset],
    tracking_name: str,
    tracking_seed: str,
) -> list[bytes]:
    """The groups of one finding, as encoded content items.

    Args:
        finding: the finding.
        image: the image that shows it.
        algorithm: the model.
        overlays: the finding's Secondary Captures.
        tracking_name: text of Tracking Identifier.
        tracking_seed: what Tracking Unique Identifier derives from.
    """
    polygons = [polygon for region in finding.regions if (polygon := _polygon(region, image)) is not None]
    groups: list[bytes] = []
    for index, polygon in enumerate(polygons or [None]):
        name = tracking_name if index == 0 else f"{tracking_name}, region {index + 1}"
        tracking = Tracking(uid=derived_uid(tracking_seed, "tracking", index), name=name)
        groups.append(_measurement_group(finding, image, algorithm, tracking, polygon, overlays))
    return groups


def group(
    template: str,
    tracking: Tracking,
    finding: Code,
    sites: Iterable[bytes],
    algorithm: Algorithm,
    values: Iterable[bytes],
) -> bytes:
    """A measurement group (125007, DCM), with its rows in the order that TID 1501, 1410 and 1411 share.

    Args:
        template: number of the template.
        tracking: the group's identifiers.
        finding: what is measured.
        sites: the finding's sites.
        algorithm: the model.
        values: measurements, evaluations, then what they were measured on.
    """
    return content.container(
        Relationship.CONTAINS,
        _MEASUREMENT_GROUP,
        [
            content.text(Relationship.HAS_OBS_CONTEXT, _TRACKING_IDENTIFIER, tracking.name),
            content.uid_reference(Relationship.HAS_OBS_CONTEXT, _TRACKING_UNIQUE_IDENTIFIER, tracking.uid),
            content.code(Relationship.CONTAINS, _FINDING, finding),
            *sites,
            content.text(Relationship.HAS_CONCEPT_MOD, _ALGORITHM_NAME, algorithm.name),
            content.text(Relationship.HAS_CONCEPT_MOD, _ALGORITHM_VERSION, algorithm.version),
            content.text(Relationship.HAS_CONCEPT_MOD, _ALGORITHM_MANUFACTURER, algorithm.manufacturer),
            *values,
        ],
        template,
    )


def finding_site(site: Code, laterality: Code | None = None) -> bytes:
    """A finding site with the side of the body, if it is known (TID 1501)."""
    sides = (
        [] if laterality is None else [content.code(Relationship.HAS_CONCEPT_MOD, _LATERALITY, laterality)]
    )
    return content.code(Relationship.HAS_CONCEPT_MOD, _FINDING_SITE, site, sides)


def evaluation(name: Code, value: Code) -> bytes:
    """A qualitative evaluation."""
    return content.code(Relationship.CONTAINS, name, value)


def visual_explanations(overlays: Iterable[Dataset]) -> list[bytes]:
    """References to overlays as Visual Explanation (130401, DCM): they show where the model looked."""
    return [
        content.image(Relationship.CONTAINS, _VISUAL_EXPLANATION, overlay.SOPClassUID, overlay.SOPInstanceUID)
        for overlay in overlays
    ]


def _measurement_group(
    finding: Finding,
    image: SourceImage,
    algorithm: Algorithm,
    tracking: Tracking,
    polygon: NDArray[np.float32] | None,
    overlays: Sequence[Dataset],
) -> bytes:
    certainty = round(100.0 * finding.calibrated_probability, _CERTAINTY_DECIMALS)
    values = [content.number(_CERTAINTY, certainty, _PERCENT)]
    if finding.ensemble_std is not None:
        deviation = round(100.0 * finding.ensemble_std, _CERTAINTY_DECIMALS)
        values.append(content.number(_CERTAINTY, deviation, _PERCENT, _STANDARD_DEVIATION))
    values.append(evaluation(_PRESENCE_OF_PROPERTY, PRESENCE[finding.presence]))
    values.append(evaluation(SEVERITY_LEVEL, SEVERITY[finding.severity]))
    if polygon is None:
        values.append(_shown(image, Relationship.CONTAINS, SOURCE_OF_MEASUREMENT))
    else:
        source = _shown(image, Relationship.SELECTED_FROM, _SOURCE)
        values.append(content.polyline(_IMAGE_REGION, polygon, source))
    site = verified(finding.label.site)
    return group(
        "1501" if polygon is None else "1410",
        tracking,
        finding_code(finding.label),
        [] if site is None else [finding_site(site)],
        algorithm,
        values + visual_explanations(overlays),
    )


def _shown(image: SourceImage, relationship: Relationship, name: Code) -> bytes:
    return content.image(relationship, name, image.sop_class_uid, image.sop_instance_uid, frame=image.frame)


def _polygon(region: Region, image: SourceImage) -> NDArray[np.float32] | None:
    """The region as a closed polyline within the image, shape (n + 1, 2); None if it has no area."""
    if len(region.points) < _FEWEST_POINTS:
        return None
    inside = np.clip(region.points, 0.0, np.array([image.columns, image.rows], dtype=np.float32))
    return np.concatenate([inside, inside[:1]]).astype(np.float32)


def tracking_name(engine_name: str, finding: Finding, image_number: int | None) -> str:
    """Text of a finding's Tracking Identifier; ``image_number`` is None if the job has only one image."""
    parts = [engine_name, finding.label.name, "" if image_number is None else f"image {image_number}"]
    return plain(" ".join(part for part in parts if part), LONG_STRING)
