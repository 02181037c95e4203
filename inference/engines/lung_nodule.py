"""Lung nodules on chest CT: the peaks of a 3D U-Net's heat map become nodules with size and malignancy.

The steps and the names of the options are those of PIVOT's "Inference Guide".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.checking.expectations import CHEST_CT
from inference.engines.nodule_options import NoduleOptions
from inference.engines.slice_wise import slice_name
from inference.engines.volume import VolumeCase, VolumeEngine, heat_picture, segmentation_of, slice_picture
from inference.findings import (
    Analysis,
    Code,
    Detection,
    Finding,
    Heatmap,
    KeyImage,
    Label,
    Segmentation,
    Structure,
    VolumeData,
)
from inference.reading.frame import Frame
from inference.running.calibration import calibrate, sigmoid
from inference.settings import EngineOptions
from inference.volumes.resampling import regular_grid, to_frames, to_grid
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.networks.pivot import PivotNetwork, PivotOutput
    from inference.running.device import Placement
    from inference.settings import EngineSettings
    from inference.store import ModelCard, StoredModel
    from inference.store.expects import Expectations
    from inference.volumes.detection import Candidate, Peak

AIR_HU = -1024.0
RISK_LIMITS = (0.35, 0.65)
"""Calibrated malignancy below the first limit is low risk; at or above the second it is high risk."""
THICKEST_MM = 5.0
"""Largest median gap between slices."""
OVERLAYS = 8
"""Most nodules that get an overlay."""
NAMED_SIZES = 5
"""Most diameters that a remark names of the candidates left out, the largest first."""
MARGIN_BELOW_HIGH = 1e-4
"""A finding without a nodule stays this far below its high threshold: enough to show in the report's digits."""
_MORPHOLOGY = Code(value="49755003", scheme="SCT", meaning="Morphologically Abnormal Structure")
_NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")


@dataclass(frozen=True, kw_only=True)
class NoduleInput:
    """A volume on the model's grid."""

    grid: Grid
    values: NDArray[np.float32] = field(repr=False)
    """Hounsfield units, shape (slices, rows, columns)."""
    image: NDArray[np.float32] = field(repr=False)
    """The network's input, of the same shape."""


class LungNoduleEngine(VolumeEngine):
    """CT of the chest; gives one finding for the volume and one detection for each nodule."""

    kind: ClassVar[str] = "lung_nodule"
    calibrates: ClassVar[bool] = False
    body_parts: ClassVar[str] = ".*(CHEST|THORAX|LUNG|ABDOMEN|BODY|TRUNK).*"
    expects: ClassVar[Expectations | None] = CHEST_CT
    fewest_slices: ClassVar[int] = 8
    window = (-600.0, 1500.0)
    options: ClassVar[type[EngineOptions]] = NoduleOptions

    @classmethod
    def build(cls, stored: StoredModel) -> PivotNetwork:
        """The PIVOT network of the card, with its weights."""
        from inference.networks.weights import load_pivot  # loads torch

        return load_pivot(stored)

    def __init__(
        self, settings: EngineSettings, card: ModelCard, network: nn.Module, placement: Placement
    ) -> None:
        super().__init__(settings, card, network, placement)
        self.nodule_options = settings.checked(NoduleOptions)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Resample the volume to the model's spacing in mm, clip and normalise it; refuse thick slices."""
        from inference.volumes.normalisation import network_input  # loads torch

        gap = float(np.median(volume.gaps))
        if gap > THICKEST_MM:
            return f"slices {gap:.1f} mm apart are too thick for nodules; at most {THICKEST_MM:.0f} mm"
        preprocessing = self.card.volume
        assert preprocessing is not None
        grid = regular_grid(volume, preprocessing.spacing)
        values = to_grid(volume, grid, outside=AIR_HU)
        image = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        return VolumeCase(volume=volume, prepared=NoduleInput(grid=grid, values=values, image=image))

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of centre and mask in each voxel of a phantom's window, and of malignancy."""
        import torch

        from inference.demo.volume_phantoms import lung_phantom
        from inference.volumes.normalisation import network_input

        assert self.card.volume is not None
        preprocessing = self.card.volume
        values = lung_phantom(0, (self.card.input_size,) * 3, nodules=2, centred=True).values
        window = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        output: PivotOutput = self.run(torch.from_numpy(window)[None, None])
        parts = (output.centre, output.mask, output.triage)
        return [sigmoid(part.float().cpu().numpy()) for part in parts if part is not None]

    def analyse(self, case: VolumeCase) -> Analysis:
        """Find peaks of the heat map, filter them by certainty and size, and describe each as a nodule."""
        from inference.volumes.detection import candidates, intensity, without_overlaps

        started = perf_counter()
        options, prepared = self.nodule_options, cast("NoduleInput", case.prepared)
        heat, mask = self.maps(prepared.image)
        spacing = prepared.grid.spacing
        nodules = candidates(self._peaks(heat, spacing), mask, spacing=spacing, shared=options.components)
        if options.nms.enabled:
            nodules = without_overlaps(nodules, iou=options.nms.iou_threshold)
        certain = [c for c in nodules if c.peak.value >= options.confidence_filter.min_confidence]
        limits = options.size_filter
        nodules = [c for c in certain if limits.min_diameter <= c.diameter_mm <= limits.max_diameter]
        small = [c.diameter_mm for c in certain if c.diameter_mm < limits.min_diameter]
        large = [c.diameter_mm for c in certain if c.diameter_mm > limits.max_diameter]
        malignancies = self.malignancy(prepared.image, nodules)
        (label, *_) = self.reported.values()
        detections = tuple(
            self._detection(number, c, malignancy, intensity(prepared.values, c), case.volume, prepared.grid)
            for number, (c, malignancy) in enumerate(zip(nodules, malignancies, strict=True), start=1)
        )
        highest = float(heat.max())
        finding = Finding(
            label=label,
            logit=float(np.log(max(highest, 1e-6) / max(1 - highest, 1e-6))),
            probability=highest,
            calibrated_probability=detections[0].certainty
            if detections
            else _certainty_without_nodule(highest, label),
            image=case.volume.frames[
                detections[0].voxel[0] if detections else _hottest_slice(heat, case.volume, prepared.grid)
            ].source,
        )
        analysis = self.analysis(
            case,
            started,
            [finding],
            tta_applied=options.tta.enabled,
            review_advised=_left_out_sentence(large, f"above {limits.max_diameter:g} mm") if large else None,
            detections=detections,
            segmentation=self._segmentation(nodules, detections, case.volume, prepared.grid),
            key_images=tuple(
                self._key_image(detection, heat, case.volume, prepared.grid)
                for detection in detections[:OVERLAYS]
            ),
            data=VolumeData(
                values=prepared.values, affine=prepared.grid.affine, planes=case.volume.planes, heat=heat
            ),
        )
        if not small:
            return analysis
        remark = _left_out_sentence(small, f"below {limits.min_diameter:g} mm")
        return replace(analysis, remarks=(*analysis.remarks, remark))

    def maps(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The heat map of nodule centres and the soft mask, each in [0, 1] and of the image's shape."""
        import torch

        from inference.volumes.windows import AUGMENTATIONS, sliding_window, whole_volume

        options = self.nodule_options
        augmentations = [AUGMENTATIONS[name] for name in options.tta.chosen]

        def predict(windows: Tensor) -> Tensor:
            output: PivotOutput = self.run(windows)
            return torch.cat([output.centre, output.mask], dim=1).float().sigmoid()

        if options.mode == "whole_volume":
            both = whole_volume(
                image,
                predict,
                multiple=2 ** len(cast("PivotNetwork", self.network).backbone.encoders),
                channels=2,
                augmentations=augmentations,
                device=str(self.placement.device),
            )
        else:
            patch = options.patch_size or (self.card.input_size,) * 3
            stride = options.stride or tuple(max(1, round(p * (1 - options.overlap))) for p in patch)
            both = sliding_window(
                image,
                predict,
                patch=patch,
                stride=(stride[0], stride[1], stride[2]),
                batch_size=options.batch_size,
                channels=2,
                blending=options.blending.method,
                sigma=options.blending.sigma,
                augmentations=augmentations,
                device=str(self.placement.device),
                whole_strides=options.padding == "stride",
            )
        return both[0], both[1]

    def _peaks(self, heat: NDArray[np.float32], spacing: tuple[float, float, float]) -> list[Peak]:
        from inference.volumes.detection import filter_maxima, local_maxima, peaks_after_suppression

        options = self.nodule_options.peak_detection
        if options.method == "maximum_filter":
            return filter_maxima(heat, threshold=options.threshold, kernel=options.kernel)
        find = peaks_after_suppression if options.method == "nms" else local_maxima
        return find(heat, threshold=options.threshold, min_distance_mm=options.min_distance, spacing=spacing)

    def malignancy(self, image: NDArray[np.float32], nodules: Sequence[Candidate]) -> list[float | None]:
        """The calibrated malignancy of each candidate, from a patch around it; None if the network has no such head."""
        import torch

        from inference.running.batches import in_batches

        if cast("PivotNetwork", self.network).triage_head is None:
            return [None] * len(nodules)
        size = self.card.input_size
        half = size // 2
        padded = np.pad(image, half)

        def malignancy_of(part: Sequence[Candidate]) -> list[float]:
            corners = [np.rint(candidate.centre).astype(int) for candidate in part]
            patches = np.stack([padded[tuple(slice(c, c + size) for c in corner)] for corner in corners])
            output: PivotOutput = self.run(torch.from_numpy(patches)[:, None])
            assert output.triage is not None
            logits = output.triage.double().cpu().numpy()
            calibrated = calibrate(self.card.triage_calibration, logits, sigmoid(logits), "sigmoid")
            return [float(malignancy) for malignancy in calibrated[:, 0]]

        parts = in_batches(nodules, self.nodule_options.batch_size, malignancy_of)
        return [malignancy for _, part in parts for malignancy in part]

    def _detection(
        self,
        number: int,
        candidate: Candidate,
        malignancy: float | None,
        intensity: tuple[float, float],
        volume: Volume,
        grid: Grid,
    ) -> Detection:
        centre = grid.to_patient(np.array([candidate.centre]))[0]
        axes = grid.affine[:3, :3] / np.array(grid.spacing) * (np.array(candidate.extent) / 2)
        ends = np.stack([centre + sign * axes[:, axis] for axis in range(3) for sign in (-1, 1)])
        low, high = RISK_LIMITS
        return Detection(
            number=number,
            label=next(iter(self.reported.values())),
            certainty=candidate.peak.value,
            centre=(float(centre[0]), float(centre[1]), float(centre[2])),
            voxel=scanned_voxel(centre, volume.frames),
            position=_scanned_position(centre, volume),
            ellipsoid=ends,
            diameter_mm=candidate.diameter_mm,
            volume_mm3=candidate.volume_mm3,
            mean_hu=intensity[0],
            std_hu=intensity[1],
            sphericity=candidate.sphericity,
            malignancy=malignancy,
            risk=None
            if malignancy is None
            else ("low" if malignancy < low else "high" if malignancy >= high else "intermediate"),
        )

    def _segmentation(
        self,
        nodules: Sequence[Candidate],
        detections: Sequence[Detection],
        volume: Volume,
        grid: Grid,
    ) -> Segmentation | None:
        labels = np.zeros(grid.shape, dtype=np.uint16)
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
        frames = frames_through(volume.frames, nodules, grid)
        return segmentation_of(to_frames(labels, grid.affine, frames), frames, structures) if frames else None

    def _key_image(
        self, detection: Detection, heat: NDArray[np.float32], volume: Volume, grid: Grid
    ) -> KeyImage:
        number = detection.voxel[0]
        frame = volume.frames[number]
        on_slice = to_frames(heat, grid.affine, [frame], order=1)[0].astype(np.float32)
        return KeyImage(
            source=frame.source,
            title=f"nodule {detection.number}, {slice_name(volume, number)}",
            label=detection.label,
            certainty=detection.certainty,
            picture=slice_picture(volume.values[number], frame, self.window),
            heatmap=Heatmap(values=heat_picture(on_slice, frame), method="Nodule heat map"),
            detection=detection.number,
        )


def _certainty_without_nodule(highest: float, label: Label) -> float:
    """The certainty of a finding if no nodule is reported: below the high threshold, so that it is not present.

    ``highest`` is the heat map's maximum, which may belong to a candidate that the filters left out.
    """
    return max(0.0, min(highest, label.thresholds.high - MARGIN_BELOW_HIGH))


def _hottest_slice(heat: NDArray[np.float32], volume: Volume, grid: Grid) -> int:
    """The index of the scanned slice nearest to the heat map's maximum."""
    voxel = np.unravel_index(int(heat.argmax()), heat.shape)
    return scanned_voxel(grid.to_patient(np.array([voxel]))[0], volume.frames)[0]


def _left_out_sentence(diameters: Sequence[float], limit: str) -> str:
    """A sentence on the candidates that the size filter left out; ``diameters`` in mm."""
    number = f"{len(diameters)} nodule candidate{'s' if len(diameters) > 1 else ''}"
    sizes = ", ".join(f"{diameter:.1f}" for diameter in sorted(diameters, reverse=True)[:NAMED_SIZES])
    more = ", ..." if len(diameters) > NAMED_SIZES else ""
    return f"{number} {limit} not reported because of the size filter; diameters in mm: {sizes}{more}"


def scanned_voxel(point: NDArray[np.float64], frames: Sequence[Frame]) -> tuple[int, int, int]:
    """(slice, row, column) of the pixel nearest to a point in LPS (mm), in the slices as they were scanned."""
    heights = [abs(float((point - np.array(frame.plane.position)) @ frame.plane.normal)) for frame in frames]
    number = int(np.argmin(heights))
    plane = frames[number].plane
    inside = point - np.array(plane.position)
    row = round(float(inside @ np.array(plane.column_direction)) / plane.spacing[0])
    column = round(float(inside @ np.array(plane.row_direction)) / plane.spacing[1])
    return (
        number,
        min(max(row, 0), frames[number].rows - 1),
        min(max(column, 0), frames[number].columns - 1),
    )


def _scanned_position(point: NDArray[np.float64], volume: Volume) -> tuple[float, float, float]:
    """(slice, row, column) of a point in LPS (mm), not rounded, from the first voxel of the first slice."""
    plane = volume.frames[0].plane
    inside = point - np.array(plane.position)
    return (
        float(inside @ plane.normal) / float(np.median(volume.gaps)),
        float(inside @ np.array(plane.column_direction)) / plane.spacing[0],
        float(inside @ np.array(plane.row_direction)) / plane.spacing[1],
    )


def frames_through(frames: Sequence[Frame], nodules: Sequence[Candidate], grid: Grid) -> list[Frame]:
    """The slices that intersect the bounding box of any candidate."""
    normal = frames[0].plane.normal
    spans = []
    for candidate in nodules:
        low = np.array(candidate.corner, dtype=float) - 0.5
        high = low + np.array(candidate.mask.shape)
        corners = np.array(
            [[a, b, c] for a in (low[0], high[0]) for b in (low[1], high[1]) for c in (low[2], high[2])]
        )
        heights = grid.to_patient(corners) @ normal
        spans.append((heights.min(), heights.max()))
    return [
        frame
        for frame in frames
        if any(low <= float(np.array(frame.plane.position) @ normal) <= high for low, high in spans)
    ]
