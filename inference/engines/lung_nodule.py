"""Lung nodules on chest CT: the peaks of a 3D U-Net's heat map become nodules with size and malignancy.

The steps and the names of the options are those of PIVOT's "Inference Guide".
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.checking.expectations import CHEST_CT
from inference.engines.nodule_options import NoduleOptions
from inference.engines.nodule_results import (
    NoduleOutput,
    Scan,
    certainty_without_nodule,
    detections_of,
    hottest_slice,
    key_image,
    left_out_sentence,
    nodule_segmentation,
)
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.engines.windowed import WindowedEngine
from inference.findings import Analysis, Finding, VolumeData
from inference.running.calibration import calibrate, sigmoid
from inference.settings import EngineOptions
from inference.volumes.detection import (
    Candidate,
    Peak,
    candidates,
    filter_maxima,
    local_maxima,
    peaks_after_suppression,
    without_overlaps,
)
from inference.volumes.normalisation import network_input
from inference.volumes.resampling import regular_grid, to_grid
from inference.volumes.volume import Grid, Volume

if TYPE_CHECKING:
    from torch import Tensor, nn

    from inference.networks.pivot import PivotNetwork, PivotOutput
    from inference.running.device import Placement
    from inference.settings import EngineSettings
    from inference.store import ModelCard, StoredModel
    from inference.store.expects import Expectations

AIR_HU = -1024.0
THICKEST_MM = 5.0
"""Largest median gap between slices."""
OVERLAYS = 8
"""Most nodules that get an overlay."""


@dataclass(frozen=True, kw_only=True)
class GridValues:
    """A volume on the model's grid."""

    grid: Grid
    values: NDArray[np.float32] = field(repr=False)
    """Hounsfield units, shape (slices, rows, columns)."""


class LungNoduleEngine(WindowedEngine):
    """CT of the chest; gives one finding for the volume and one detection for each nodule."""

    kind: ClassVar[str] = "lung_nodule"
    backends: ClassVar[tuple[str, ...]] = ("torch", "openvino")
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

    @classmethod
    def results_of(cls, output: PivotOutput) -> tuple[Tensor, ...]:
        """The heat map of centres and the soft mask as two channels and, with that head, the malignancy's logits."""
        import torch

        maps = torch.cat([output.centre, output.mask], dim=1).float().sigmoid()
        return (maps,) if output.triage is None else (maps, output.triage)

    def __init__(
        self, settings: EngineSettings, card: ModelCard, network: nn.Module, placement: Placement
    ) -> None:
        super().__init__(settings, card, network, placement)
        self.nodule_options = settings.checked(NoduleOptions)

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Resample the volume to the model's spacing in mm, clip and normalise it; refuse thick slices."""
        gap = float(np.median(volume.gaps))
        if gap > THICKEST_MM:
            return f"slices {gap:.1f} mm apart are too thick for nodules; at most {THICKEST_MM:.0f} mm"
        preprocessing = self.card.volume
        assert preprocessing is not None
        grid = regular_grid(volume, preprocessing.spacing)
        values = to_grid(volume, grid, outside=AIR_HU)
        image = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        return VolumeCase(volume=volume, inputs=image, prepared=GridValues(grid=grid, values=values))

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The probabilities of centre and mask in each voxel of a phantom's window, and of malignancy."""
        import torch

        from inference.demo.volume_phantoms import lung_phantom

        assert self.card.volume is not None
        preprocessing = self.card.volume
        values = lung_phantom(0, (self.card.input_size,) * 3, nodules=2, centred=True).values
        window = network_input(values, preprocessing.low, preprocessing.high, preprocessing.normalisation)
        maps, *triage = self.results(torch.from_numpy(window)[None, None])
        return [maps.cpu().numpy(), *(sigmoid(logits.float().cpu().numpy()) for logits in triage)]

    def run_volume(self, case: VolumeCase) -> NoduleOutput:
        """Find peaks of the heat map, filter them by certainty and size, and judge the malignancy of the rest."""
        options, image = self.nodule_options, case.network_inputs
        heat, mask = self.maps(image)
        spacing = cast("GridValues", case.prepared).grid.spacing
        nodules = candidates(self._peaks(heat, spacing), mask, spacing=spacing, shared=options.components)
        if options.nms.enabled:
            nodules = without_overlaps(nodules, iou=options.nms.iou_threshold)
        certain = [c for c in nodules if c.peak.value >= options.confidence_filter.min_confidence]
        limits = options.size_filter
        reported = [c for c in certain if limits.min_diameter <= c.diameter_mm <= limits.max_diameter]
        return NoduleOutput(
            heat=heat,
            nodules=tuple(reported),
            malignancies=tuple(self.malignancy(image, reported)),
            too_small=tuple(c.diameter_mm for c in certain if c.diameter_mm < limits.min_diameter),
            too_large=tuple(c.diameter_mm for c in certain if c.diameter_mm > limits.max_diameter),
        )

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """Describe each nodule, with its segmentation and the slices that show it."""
        options, prepared = self.nodule_options, cast("GridValues", case.prepared)
        found = cast("NoduleOutput", output.values)
        scan = Scan(volume=case.volume, grid=prepared.grid, values=prepared.values)
        (label, *_) = self.reported.values()
        detections = detections_of(found, label, scan)
        highest = float(found.heat.max())
        shown = detections[0].voxel[0] if detections else hottest_slice(found.heat, scan)
        finding = Finding(
            label=label,
            logit=float(np.log(max(highest, 1e-6) / max(1 - highest, 1e-6))),
            probability=highest,
            calibrated_probability=detections[0].certainty
            if detections
            else certainty_without_nodule(highest, label),
            image=case.volume.frames[shown].source,
        )
        limits = options.size_filter
        large = f"above {limits.max_diameter:g} mm"
        analysis = self.analysis(
            case,
            output,
            [finding],
            tta_applied=options.tta.enabled,
            review_advised=left_out_sentence(found.too_large, large) if found.too_large else None,
            detections=detections,
            segmentation=nodule_segmentation(found.nodules, detections, scan),
            key_images=tuple(
                key_image(detection, found.heat, scan, self.window) for detection in detections[:OVERLAYS]
            ),
            data=VolumeData(
                values=prepared.values,
                affine=prepared.grid.affine,
                planes=case.volume.planes,
                heat=found.heat,
            ),
        )
        if not found.too_small:
            return analysis
        remark = left_out_sentence(found.too_small, f"below {limits.min_diameter:g} mm")
        return replace(analysis, remarks=(*analysis.remarks, remark))

    def maps(self, image: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The heat map of nodule centres and the soft mask, each in [0, 1] and of the image's shape."""
        from inference.volumes.windows import AUGMENTATIONS, sliding_window, whole_volume

        options = self.nodule_options
        augmentations = [AUGMENTATIONS[name] for name in options.tta.chosen]

        def predict(windows: Tensor) -> Tensor:
            return self.results(windows)[0]

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
                batch_size=self._batch_size(patch),
                channels=2,
                blending=options.blending.method,
                sigma=options.blending.sigma,
                augmentations=augmentations,
                device=str(self.placement.device),
                whole_strides=options.padding == "stride",
            )
        return both[0], both[1]

    def _batch_size(self, shape: tuple[int, int, int]) -> int:
        chosen = self.nodule_options.batch_size
        return self.windows_at_once(shape) if chosen == "auto" else chosen

    def _peaks(self, heat: NDArray[np.float32], spacing: tuple[float, float, float]) -> list[Peak]:
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
            _, triage = self.results(torch.from_numpy(patches)[:, None])
            logits = triage.double().cpu().numpy()
            calibrated = calibrate(self.card.triage_calibration, logits, sigmoid(logits), "sigmoid")
            return [float(malignancy) for malignancy in calibrated[:, 0]]

        parts = in_batches(nodules, self._batch_size((size, size, size)), malignancy_of)
        return [malignancy for _, part in parts for malignancy in part]
