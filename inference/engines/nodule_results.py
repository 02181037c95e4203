"""What a report says and shows of the nodules that the networks found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from inference.engines.slice_wise import slice_name
from inference.findings import Code, Detection, Heatmap, KeyImage, Label, Segmentation, Structure
from inference.volumes.detection import Candidate, intensity
from inference.volumes.pictures import heat_picture, slice_picture
from inference.volumes.places import frames_through, scanned_position, scanned_voxel
from inference.volumes.resampling import to_frames
from inference.volumes.segmentation import segmentation_of
from inference.volumes.volume import Grid, Volume

RISK_LIMITS = (0.35, 0.65)
"""Calibrated malignancy below the first limit is low risk; at or above the second it is high risk."""
NAMED_SIZES = 5
"""Most diameters that a remark names of the candidates left out, the largest first."""
MARGIN_BELOW_HIGH = 1e-4
"""A finding without a nodule stays this far below its high threshold: enough to show in the report's digits."""
_MORPHOLOGY = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
_NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")


@dataclass(frozen=True, kw_only=True)
class NoduleOutput:
    """What the networks found in a volume."""

    heat: NDArray[np.float32] = field(repr=False)
    """The heat map of nodule centres in [0, 1], on the model's grid."""
    nodules: tuple[Candidate, ...]
    """Those to report, the highest peak first."""
    malignancies: tuple[float | None, ...]
    """The calibrated malignancy of each nodule; None if the network has no such head."""
    too_small: tuple[float, ...]
    """Diameters in mm of the candidates below the size filter."""
    too_large: tuple[float, ...]
    """Diameters in mm of the candidates above it."""


@dataclass(frozen=True, kw_only=True)
class Scan:
    """A volume as it was scanned, and on the model's grid."""

    volume: Volume
    grid: Grid
    values: NDArray[np.float32] = field(repr=False)
    """Hounsfield units on the grid."""


def detections_of(output: NoduleOutput, label: Label, scan: Scan) -> tuple[Detection, ...]:
    """The nodules, with their places in the patient and in the slices, numbered from 1."""
    return tuple(
        _detection(number, candidate, malignancy, label, scan)
        for number, (candidate, malignancy) in enumerate(
            zip(output.nodules, output.malignancies, strict=True), start=1
        )
    )


def _detection(
    number: int, candidate: Candidate, malignancy: float | None, label: Label, scan: Scan
) -> Detection:
    volume, grid = scan.volume, scan.grid
    centre = grid.to_patient(np.array([candidate.centre]))[0]
    axes = grid.affine[:3, :3] / np.array(grid.spacing) * (np.array(candidate.extent) / 2)
    ends = np.stack([centre + sign * axes[:, axis] for axis in range(3) for sign in (-1, 1)])
    mean_hu, std_hu = intensity(scan.values, candidate)
    return Detection(
        number=number,
        label=label,
        certainty=candidate.peak.value,
        centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        voxel=scanned_voxel(centre, volume.frames),
        position=scanned_position(centre, volume),
        ellipsoid=ends,
        diameter_mm=candidate.diameter_mm,
        volume_mm3=candidate.volume_mm3,
        mean_hu=mean_hu,
        std_hu=std_hu,
        sphericity=candidate.sphericity,
        malignancy=malignancy,
        risk=None if malignancy is None else _risk(malignancy),
    )


def _risk(malignancy: float) -> str:
    low, high = RISK_LIMITS
    return "low" if malignancy < low else "high" if malignancy >= high else "intermediate"


def nodule_segmentation(
    nodules: Sequence[Candidate], detections: Sequence[Detection], scan: Scan
) -> Segmentation | None:
    """The masks of nodules on the slices that they lie in; None if there are no nodules."""
    frames = frames_through(scan.volume.frames, nodules, scan.grid)
    if not frames:
        return None
    labels = np.zeros(scan.grid.shape, dtype=np.uint16)
    for detection, candidate in zip(detections, nodules, strict=True):
        part = tuple(slice(c, c + n) for c, n in zip(candidate.corner, candidate.mask.shape, strict=True))
        labels[part][candidate.mask] = detection.number
    structures = [
        Structure(
            value=d.number,
            name=f"{d.label.name} {d.number}",
            category=_MORPHOLOGY,
            type=_NODULE,
            volume_mm3=d.volume_mm3,
        )
        for d in detections
    ]
    return segmentation_of(to_frames(labels, scan.grid.affine, frames), frames, structures)


def key_image(
    detection: Detection, heat: NDArray[np.float32], scan: Scan, window: tuple[float, float] | None
) -> KeyImage:
    """The slice through a nodule's centre with its heat map; ``window`` as in ``slice_picture``."""
    volume = scan.volume
    number = detection.voxel[0]
    frame = volume.frames[number]
    on_slice = to_frames(heat, scan.grid.affine, [frame], order=1)[0].astype(np.float32)
    return KeyImage(
        source=frame.source,
        title=f"nodule {detection.number}, {slice_name(volume, number)}",
        label=detection.label,
        certainty=detection.certainty,
        picture=slice_picture(volume.values[number], frame, window),
        heatmap=Heatmap(values=heat_picture(on_slice, frame), method="Nodule heat map"),
        detection=detection.number,
    )


def certainty_without_nodule(highest: float, label: Label) -> float:
    """The certainty of a finding if no nodule is reported: below the high threshold, so that it is not present.

    ``highest`` is the heat map's maximum, which may belong to a candidate that the filters left out.
    """
    return max(0.0, min(highest, label.thresholds.high - MARGIN_BELOW_HIGH))


def hottest_slice(heat: NDArray[np.float32], scan: Scan) -> int:
    """The index of the scanned slice nearest to the heat map's maximum."""
    voxel = np.unravel_index(int(heat.argmax()), heat.shape)
    return scanned_voxel(scan.grid.to_patient(np.array([voxel]))[0], scan.volume.frames)[0]


def left_out_sentence(diameters: Sequence[float], limit: str) -> str:
    """A sentence on the candidates that the size filter left out; ``diameters`` in mm."""
    number = f"{len(diameters)} nodule candidate{'s' if len(diameters) > 1 else ''}"
    sizes = ", ".join(f"{diameter:.1f}" for diameter in sorted(diameters, reverse=True)[:NAMED_SIZES])
    more = ", ..." if len(diameters) > NAMED_SIZES else ""
    return f"{number} {limit} not reported because of the size filter; diameters in mm: {sizes}{more}"
