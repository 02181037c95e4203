"""Result types of the inference room: what an engine found, in the terms of a report.

Only numpy is imported here, so that the room that writes reports does not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Presence(StrEnum):
    """Whether a finding is there, by its calibrated probability and thresholds."""

    PRESENT = "present"
    """At or above the high threshold."""
    INDETERMINATE = "indeterminate"
    """At or above the low threshold and below the high one."""
    ABSENT = "absent"
    """Below the low threshold."""


class Severity(StrEnum):
    """Severity level of a finding by the model card's thresholds ("Models and Inference Strategy", section 6.2)."""

    NONE = "none"
    LOW = "low"
    HIGH = "high"
    CRITICAL = "critical"


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept: value, coding scheme designator (PS3.16 section 8) and meaning."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Thresholds:
    """Operating thresholds on the calibrated probability, each in [0, 1], low <= high <= critical."""

    low: float
    high: float
    critical: float

    def __post_init__(self) -> None:
        """Check the order of the thresholds.

        Raises:
            ValueError: they are out of order or outside [0, 1].
        """
        if not 0.0 <= self.low <= self.high <= self.critical <= 1.0:
            raise ValueError(f"thresholds must satisfy 0 <= low <= high <= critical <= 1, not {self}")

    def presence(self, probability: float) -> Presence:
        """Presence at a calibrated probability in [0, 1]."""
        if probability >= self.high:
            return Presence.PRESENT
        return Presence.INDETERMINATE if probability >= self.low else Presence.ABSENT

    def severity(self, probability: float) -> Severity:
        """Severity level at a calibrated probability in [0, 1]."""
        if probability >= self.critical:
            return Severity.CRITICAL
        if probability >= self.high:
            return Severity.HIGH
        return Severity.LOW if probability >= self.low else Severity.NONE


@dataclass(frozen=True, kw_only=True)
class Label:
    """One output of a model."""

    name: str
    thresholds: Thresholds
    finding: Code | None = None
    """None if no verified code exists; the report then uses the private coding scheme."""
    site: Code | None = None
    """Anatomical site, if it is known."""


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """The model that made a result, as the report names it."""

    name: str
    """Name in the model store, for example ``densenet121-res224-all``."""
    version: str
    """The card's version and the first digits of the weights' SHA-256."""
    sha256: str
    kind: str
    """Engine kind, for example ``chest_xray``."""
    manufacturer: str
    licence: str
    demonstration: bool = False
    """True for bundled models: every result object says "demonstration model, not for clinical use"."""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """The image that was analysed."""

    path: Path
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    rows: int
    columns: int
    frame: int | None = None
    """1-based frame number; None for single-frame images."""


@dataclass(frozen=True, kw_only=True)
class Region:
    """A closed polygon around a finding.

    ``points`` has shape (n, 2): (column, row) in pixels of the source image, with (0.0, 0.0) at the outer
    corner of the first pixel (PS3.3 section C.18.6.1.1). The first point is not repeated at the end.
    """

    points: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """Where the model looked for one label."""

    values: NDArray[np.float32]
    """In [0, 1], of the shape of the analysis' ``picture``; zero outside the part that the model saw."""
    method: str
    """Name that readers see, for example ``Grad-CAM``."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One label's result for one case."""

    label: Label
    logit: float
    probability: float
    """Model output in [0, 1]."""
    calibrated_probability: float
    """Probability after calibration and operating points, in [0, 1]; the thresholds apply to it."""
    ensemble_std: float | None = None
    """Standard deviation of the ensemble's calibrated probabilities; None without an ensemble."""
    individual_predictions: tuple[float, ...] = ()
    """Probabilities of the ensemble's passes or the volume's slices, in their order."""
    heatmap: Heatmap | None = None
    regions: tuple[Region, ...] = ()
    image: SourceImage | None = None
    """For volumes: the slice that shows it best."""

    @property
    def presence(self) -> Presence:
        """Presence by the label's thresholds."""
        return self.label.thresholds.presence(self.calibrated_probability)

    @property
    def severity(self) -> Severity:
        """Severity level by the label's thresholds."""
        return self.label.thresholds.severity(self.calibrated_probability)


@dataclass(frozen=True, kw_only=True)
class Absence:
    """A model's result for its negative class, which means that nothing was found; it is not a finding."""

    name: str
    """Name in the model card, for example ``Normal``."""
    logit: float
    probability: float
    calibrated_probability: float


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one prototype of a concept adds to a logit: ``weight`` times ``similarity``, which is in [-1, 1]."""

    concept: str
    prototype: int
    """1-based number among the concept's prototypes."""
    weight: float
    similarity: float

    @property
    def amount(self) -> float:
        """The summand of the logit."""
        return self.weight * self.similarity


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """How a logit is made up: it is the sum of ``bias`` and all contributions."""

    label: str
    bias: float
    contributions: tuple[Contribution, ...]

    @property
    def logit(self) -> float:
        """The sum of the bias and all contributions."""
        return self.bias + sum(contribution.amount for contribution in self.contributions)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One lesion in a volume. Patient coordinates are DICOM's (LPS), in mm."""

    number: int
    """1-based, most certain first."""
    label: Label
    certainty: float
    """In [0, 1]."""
    centre: tuple[float, float, float]
    """Patient coordinates of the centre."""
    voxel: tuple[int, int, int]
    """(slice, row, column) of the centre in the series as it was scanned."""
    position: tuple[float, float, float]
    """The same from the first voxel, not rounded; the slice in multiples of the median gap."""
    ellipsoid: NDArray[np.float64] = field(repr=False)
    """Shape (6, 3): the two ends of each axis, in the order of graphic type ELLIPSOID (PS3.3 section C.18.9.1.2)."""
    diameter_mm: float
    volume_mm3: float
    mean_hu: float
    std_hu: float
    sphericity: float
    """Surface of a ball of the same volume divided by the lesion's surface, at most 1."""
    malignancy: float | None = None
    """Calibrated probability in [0, 1]."""
    risk: str | None = None
    """``low``, ``intermediate`` or ``high``."""

    @property
    def diameters_mm(self) -> tuple[float, float, float]:
        """Lengths of the ellipsoid's axes in mm; of nodules across slices, across rows and across columns."""
        lengths = np.linalg.norm(self.ellipsoid[1::2] - self.ellipsoid[::2], axis=1)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One segment of a segmentation."""

    value: int
    """Value of its pixels in the label maps."""
    name: str
    category: Code | None
    type: Code | None
    volume_mm3: float


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Label maps on the stored frames of the source."""

    images: tuple[SourceImage, ...]
    """The frames, in the order of ``labels``."""
    labels: NDArray[np.unsignedinteger] = field(repr=False)
    """uint8 or uint16 of shape (images, rows, columns); 0 where there is no structure."""
    structures: tuple[Structure, ...]


@dataclass(frozen=True, kw_only=True)
class KeyImage:
    """A slice that shows a finding; ``picture`` is as in :class:`Analysis`."""

    source: SourceImage
    title: str
    label: Label
    certainty: float
    picture: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    detection: int | None = None
    """Number of the detection that the slice shows, if it is one."""


@dataclass(frozen=True, kw_only=True)
class VolumeData:
    """The voxels of an analysed volume, for files that show them."""

    values: NDArray[np.float32] = field(repr=False)
    """Modality values on a regular grid, shape (slices, rows, columns)."""
    affine: NDArray[np.float64] = field(repr=False)
    """Maps (slice, row, column, 1) of the grid to LPS in mm, shape (4, 4)."""
    planes: NDArray[np.float64] = field(repr=False)
    """For each scanned slice the map from (row, column, 1) to (x, y, z, 1) in LPS, shape (slices, 4, 3)."""
    heat: NDArray[np.float32] = field(repr=False)
    """Heat map in [0, 1] on the grid."""


@dataclass(frozen=True, kw_only=True)
class ScannedVolume:
    """The volume that an analysis is about, as it was scanned."""

    images: tuple[SourceImage, ...]
    """Every image of the volume."""
    frame_of_reference_uid: str
    """Frame of reference of the patient coordinates."""
    spacing: tuple[float, float, float]
    """Between slices (median), rows and columns, in mm."""
    shape: tuple[int, int, int]
    """Slices, rows, columns."""
    data: VolumeData | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """The result of one engine for one case, which is an image or a volume.

    ``findings`` are about the whole case. Parts of a volume are in ``detections`` (engines that look for lesions)
    and ``segmentation`` (engines that segment).
    """

    source: SourceImage
    """The image; of a volume, the slice in the middle."""
    model: ModelIdentity
    findings: tuple[Finding, ...]
    """In the order of the model's labels."""
    picture: NDArray[np.uint8] = field(repr=False)
    """The source as a person sees it, shape (rows, columns): dense is bright, the aspect ratio is the source's,
    the longer side has at most 1024 pixels."""
    absence: Absence | None = None
    exclusive: bool = False
    """True if exactly one of the findings and the absence holds, as with a softmax."""
    device: str
    inference_time_ms: float
    ensemble_size: int = 1
    tta_applied: bool = False
    review_advised: str | None = None
    """Why a person should review the result, or None."""
    disclaimer: str = ""
    """The model's disclaimer, which every output repeats."""
    remarks: tuple[str, ...] = ()
    """Further sentences for the report."""
    reasoning: tuple[Reasoning, ...] = ()
    """For models that decide by prototypes: how each label's logit is made up."""
    volume: ScannedVolume | None = None
    """None for single images."""
    detections: tuple[Detection, ...] | None = None
    """None for engines that do not look for lesions."""
    segmentation: Segmentation | None = None
    key_images: tuple[KeyImage, ...] = ()
    """Slices of a volume that show its findings best."""

    @property
    def prediction(self) -> tuple[str, float] | None:
        """The most probable class, which may be the absence, with its probability; None unless ``exclusive``."""
        if not self.exclusive:
            return None
        classes: list[tuple[str, float]] = [(f.label.name, f.calibrated_probability) for f in self.findings]
        if self.absence is not None:
            classes.append((self.absence.name, self.absence.calibrated_probability))
        return max(classes, key=lambda pair: pair[1])

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the findings' labels."""
        return tuple(finding.label.name for finding in self.findings)

    @property
    def heatmaps(self) -> dict[str, Heatmap]:
        """Heat maps by label name; of a volume, the one of the label's first key image."""
        of_slices = {image.label.name: image.heatmap for image in reversed(self.key_images)}
        return of_slices | {f.label.name: f.heatmap for f in self.findings if f.heatmap is not None}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An input that the engine does not take, and the reason that the operator reads."""

    path: Path
    reason: str


def mixed_patients(count: int) -> str:
    """The reason for refusing a series with images of ``count`` patients."""
    return f"the images of the series are of {count} patients, and a report is about one"
