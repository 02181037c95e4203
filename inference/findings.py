"""Result types of the inference room: what an engine found, in terms that a report can be written from.

Only numpy is needed here, so that the room that writes reports does not load torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


class Presence(StrEnum):
    """Whether a finding is there, read from the calibrated probability and its thresholds."""

    PRESENT = "present"
    """At or above the high threshold."""
    INDETERMINATE = "indeterminate"
    """At or above the low threshold, below the high one."""
    ABSENT = "absent"
    """Below the low threshold."""


class Severity(StrEnum):
    """Severity level of a finding (model card thresholds, seed document 000 section 6.2)."""

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
    """One output of a model: its name, the coded finding and, where it is known, the coded site.

    ``finding`` is None where no verified code exists; the report then uses the private scheme.
    """

    name: str
    thresholds: Thresholds
    finding: Code | None = None
    site: Code | None = None


@dataclass(frozen=True, kw_only=True)
class ModelIdentity:
    """Which model made a result, as the report has to name it."""

    name: str
    """Name in the model store, for example ``densenet121-res224-all``."""
    version: str
    """Version of the model: its card's version and the start of the weights' sha256."""
    sha256: str
    kind: str
    """Engine kind, for example ``chest_xray``."""
    manufacturer: str
    licence: str
    demonstration: bool = False
    """True for bundled models: every object says "demonstration model, not for clinical use"."""


@dataclass(frozen=True, kw_only=True)
class SourceImage:
    """The image that was analysed. ``frame`` is the 1-based frame number, None for a single frame."""

    path: Path
    study_instance_uid: str
    series_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    rows: int
    columns: int
    frame: int | None = None


@dataclass(frozen=True, kw_only=True)
class Region:
    """A closed polygon around a finding.

    ``points`` has shape (n, 2), float32: (column, row) in pixels of the source image, with (0.0, 0.0)
    at the outer corner of the first pixel as PS3.3 section C.18.6.1.1 defines. The first point is not
    repeated at the end.
    """

    points: NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Heatmap:
    """Where the model looked for one label.

    ``values`` is float32 in [0, 1], with the shape of the analysis' ``picture``; zero outside the
    part of the image that the model saw.
    """

    values: NDArray[np.float32]
    method: str
    """Name for readers, for example ``Grad-CAM``."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One label's result for one case."""

    label: Label
    logit: float
    probability: float
    """Model output in [0, 1]."""
    calibrated_probability: float
    """Probability after calibration and operating points, in [0, 1]; what thresholds apply to."""
    ensemble_std: float | None = None
    individual_predictions: tuple[float, ...] = ()
    heatmap: Heatmap | None = None
    regions: tuple[Region, ...] = ()
    image: SourceImage | None = None
    """For volumes: the slice that shows it best."""

    @property
    def presence(self) -> Presence:
        return self.label.thresholds.presence(self.calibrated_probability)

    @property
    def severity(self) -> Severity:
        return self.label.thresholds.severity(self.calibrated_probability)


@dataclass(frozen=True, kw_only=True)
class Absence:
    """What a model says of its class that means that nothing was found. It is no finding."""

    name: str
    """As the model card has it, for example ``Normal``."""
    logit: float
    probability: float
    calibrated_probability: float


@dataclass(frozen=True, kw_only=True)
class Contribution:
    """What one prototype of a concept adds to a logit: ``weight`` times ``similarity`` in [-1, 1]."""

    concept: str
    prototype: int
    """1-based number among the concept's prototypes."""
    weight: float
    similarity: float

    @property
    def amount(self) -> float:
        return self.weight * self.similarity


@dataclass(frozen=True, kw_only=True)
class Reasoning:
    """How a logit came about: ``bias`` and all contributions add up to it."""

    label: str
    bias: float
    contributions: tuple[Contribution, ...]

    @property
    def logit(self) -> float:
        return self.bias + sum(contribution.amount for contribution in self.contributions)


@dataclass(frozen=True, kw_only=True)
class Detection:
    """One lesion in a volume. Patient coordinates are DICOM's (LPS), in mm.

    ``ellipsoid`` has shape (6, 3): the two ends of each of the three axes, as graphic type ELLIPSOID of PS3.3
    section C.18.9.1.2 lists them. ``voxel`` is (slice, row, column) in the series as it was scanned.
    """

    number: int
    """1-based, most certain first."""
    label: Label
    certainty: float
    """In [0, 1]."""
    centre: tuple[float, float, float]
    voxel: tuple[int, int, int]
    position: tuple[float, float, float]
    """The same, not rounded, the slice as a fraction of the median gap."""
    ellipsoid: NDArray[np.float64] = field(repr=False)
    diameter_mm: float
    volume_mm3: float
    mean_hu: float
    std_hu: float
    sphericity: float
    """Surface of the ball of the same volume over the lesion's own, at most 1."""
    malignancy: float | None = None
    """Calibrated probability in [0, 1]."""
    risk: str | None = None
    """``low``, ``intermediate`` or ``high``."""

    @property
    def diameters_mm(self) -> tuple[float, float, float]:
        """Lengths of the ellipsoid's axes in mm, in their order: for nodules along slices, rows and columns."""
        lengths = np.linalg.norm(self.ellipsoid[1::2] - self.ellipsoid[::2], axis=1)
        return float(lengths[0]), float(lengths[1]), float(lengths[2])


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One segment: the value that its pixels have in the label maps, and what it is."""

    value: int
    name: str
    category: Code | None
    type: Code | None
    volume_mm3: float


@dataclass(frozen=True, kw_only=True)
class Segmentation:
    """Label maps on the stored frames of the source.

    ``labels`` is uint8 or uint16 of shape (images, rows, columns), 0 where there is nothing; ``images`` are the
    frames in the same order.
    """

    images: tuple[SourceImage, ...]
    labels: NDArray[np.unsignedinteger] = field(repr=False)
    structures: tuple[Structure, ...]


@dataclass(frozen=True, kw_only=True)
class KeyImage:
    """A slice that shows a finding: ``picture`` as in :class:`Analysis`, with a heat map of its shape."""

    source: SourceImage
    title: str
    label: Label
    certainty: float
    picture: NDArray[np.uint8] = field(repr=False)
    heatmap: Heatmap
    detection: int | None = None
    """Number of the detection that it shows."""


@dataclass(frozen=True, kw_only=True)
class VolumeData:
    """The volume behind an analysis, for files that show it.

    ``values`` are modality values (slices, rows, columns) on a regular grid, ``affine`` takes (slice, row,
    column, 1) to LPS in mm. ``planes``, (slices, 4, 3), are the slices as they were scanned: each takes (row,
    column, 1) of its pixels to (x, y, z, 1). ``heat`` is float32 in [0, 1] on the grid.
    """

    values: NDArray[np.float32] = field(repr=False)
    affine: NDArray[np.float64] = field(repr=False)
    planes: NDArray[np.float64] = field(repr=False)
    heat: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class ScannedVolume:
    """The volume that an analysis is about, as it was scanned.

    ``spacing`` is (slice, row, column) in mm, slices by their median gap; ``shape`` is in the same order.
    """

    images: tuple[SourceImage, ...]
    """Every image that it was made of."""
    frame_of_reference_uid: str
    """Of the patient coordinates."""
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]
    data: VolumeData | None = None


@dataclass(frozen=True, kw_only=True)
class Analysis:
    """What one engine says of one case: an image, or a volume with its slice in the middle as ``source``.

    ``findings`` are about the case as a whole, each with where on the image it is seen. What is said of parts of
    a volume stands apart: ``detections`` of engines that look for lesions, a ``segmentation`` of those that segment.

    ``picture`` is the source image as a person would see it: uint8, shape (rows, columns), bright =
    dense, at most 1024 pixels on its longer side, with the source's aspect ratio. ``findings`` has
    the order of the model's labels.
    """

    source: SourceImage
    model: ModelIdentity
    findings: tuple[Finding, ...]
    picture: NDArray[np.uint8] = field(repr=False)
    absence: Absence | None = None
    exclusive: bool = False
    """Whether exactly one of the findings and the absence holds, as a softmax says."""
    device: str
    inference_time_ms: float
    ensemble_size: int = 1
    tta_applied: bool = False
    review_advised: str | None = None
    """Why a person should look again, or None."""
    disclaimer: str = ""
    """The model's own sentence, which every output carries."""
    remarks: tuple[str, ...] = ()
    """Sentences that the report carries."""
    reasoning: tuple[Reasoning, ...] = ()
    """For models that decide by prototypes: how each label's logit came about."""
    volume: ScannedVolume | None = None
    """None for single images."""
    detections: tuple[Detection, ...] | None = None
    """None for engines that look for none."""
    segmentation: Segmentation | None = None
    key_images: tuple[KeyImage, ...] = ()
    """Slices of a volume that are worth a look."""

    @property
    def prediction(self) -> tuple[str, float] | None:
        """The most probable class, the absence among them, and how probable it is; None unless one holds."""
        if not self.exclusive:
            return None
        said: list[tuple[str, float]] = [(f.label.name, f.calibrated_probability) for f in self.findings]
        if self.absence is not None:
            said.append((self.absence.name, self.absence.calibrated_probability))
        return max(said, key=lambda one: one[1])

    @property
    def labels(self) -> tuple[str, ...]:
        return tuple(finding.label.name for finding in self.findings)

    @property
    def heatmaps(self) -> dict[str, Heatmap]:
        """Heat maps by label name, for the labels that have one; of a volume those of the first slice shown."""
        of_slices = {image.label.name: image.heatmap for image in reversed(self.key_images)}
        return of_slices | {f.label.name: f.heatmap for f in self.findings if f.heatmap is not None}


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An input that the engine does not take, with the reason an operator reads."""

    path: Path
    reason: str


def mixed_patients(count: int) -> str:
    """The reason with which a series of several patients is refused."""
    return f"the images of the series are of {count} patients, and a report is about one"
