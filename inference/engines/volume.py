"""What the engines for volumes share: choosing series, reading them, pictures of slices, label maps on slices."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.checking.input_check import InputCheck, check_volume, joined
from inference.checking.plausibility import without_implausible
from inference.engines.options import FindingOptions
from inference.errors import EngineMisconfigured, ModelInvalid
from inference.findings import (
    Analysis,
    Finding,
    Label,
    ModelIdentity,
    Refusal,
    ScannedVolume,
    Segmentation,
    SourceImage,
    Structure,
    VolumeData,
)
from inference.headers import ImageHeader, Selection
from inference.images.resampling import resample, triangle_axis
from inference.reading.frame import Frame
from inference.running.precision import check_precision
from inference.store.identity import identity_of
from inference.store.thresholds import with_thresholds
from inference.volumes.resampling import to_frames
from inference.volumes.volume import Grid, Volume, read_series

if TYPE_CHECKING:
    import torch
    from torch import nn

    from inference.running.device import Placement
    from inference.settings import EngineSettings
    from inference.store import ModelCard, ModelStore, StoredModel
    from inference.store.card_parts import CardStructure
    from inference.store.expects import Expectations

SHORTEST_SIDE = 384
"""Pictures of small slices are enlarged to this, so that a reader sees something."""
LONGEST_SIDE = 1024


@dataclass(frozen=True, kw_only=True)
class VolumeCase:
    """One volume of a series. ``prepared`` is what an engine made of it on the CPU."""

    volume: Volume
    prepared: Any = field(default=None, repr=False)
    check: InputCheck = field(default_factory=InputCheck, repr=False)

    @property
    def source(self) -> SourceImage:
        return self.volume.source


class VolumeEngine:
    """An engine for volumes; a kind says which series it takes and what it finds."""

    kind: ClassVar[str]
    header_keywords: ClassVar[frozenset[str]] = frozenset({"Modality", "BodyPartExamined", "ImageType"})
    takes_series: ClassVar[bool] = True
    batch_size: ClassVar[int] = 1
    modalities: ClassVar[tuple[str, ...]] = ("CT",)
    body_parts: ClassVar[str] = ".*"
    """Regular expression on Body Part Examined, where the series has one."""
    fewest_slices: ClassVar[int] = 3
    options: ClassVar[type[FindingOptions]] = FindingOptions
    needs_volume_card: ClassVar[bool] = True
    calibrates: ClassVar[bool] = True
    """Whether a card's calibration is applied to the kind's certainties."""
    window: ClassVar[tuple[float, float] | None] = None
    """Centre and width for pictures; None: the range of the values."""
    expects: ClassVar[Expectations | None] = None
    """What the kind expects of a volume, where the model's card says nothing."""

    def __init__(
        self, settings: EngineSettings, card: ModelCard, network: nn.Module, placement: Placement
    ) -> None:
        self.settings = settings
        self.card = card
        self.placement = placement
        labels = with_thresholds(
            [label.as_finding() for label in card.reported.values()], settings.checked(self.options).limits
        )
        self.reported: dict[int, Label] = dict(zip(card.reported, labels, strict=True))
        """The labels that can be findings, with the settings' thresholds, by their output."""
        self._identity = identity_of([card], settings.options)
        self.network = network.eval().requires_grad_(False).to(placement.device)

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        """The network of a card, with its weights.

        Raises:
            ModelInvalid: the card or the weights are not for this kind.
        """
        raise NotImplementedError

    def analyse(self, case: VolumeCase) -> Analysis:
        """Everything about one volume."""
        raise NotImplementedError

    def drawn_probabilities(self) -> list[NDArray[np.floating]]:
        """What the network makes of fixed drawn inputs in the engine's number format, as probabilities.

        A reduced precision is compared by it with fp32.
        """
        raise NotImplementedError

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Preprocess one volume on the CPU, or say why it is not for this engine."""
        return VolumeCase(volume=volume)

    @classmethod
    def refusal(cls, header: ImageHeader) -> str | None:
        """Why an image is not for this kind, as a sentence; None if it is."""
        modality = header.text("Modality")
        if modality not in cls.modalities:
            return f"{cls.kind} takes {' or '.join(cls.modalities)} series, not {modality or 'an unknown modality'}"
        if "LOCALIZER" in header.values("ImageType"):
            return "the image is a localizer"
        part = header.text("BodyPartExamined")
        if part and re.fullmatch(cls.body_parts, part) is None:
            return f"{cls.kind} is not for the body part {part}"
        return None

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """All slices of a series that this kind takes; whether they are a volume shows when they are read."""
        return Selection.by(headers, cls.refusal)

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model onto its device."""
        settings.checked(cls.options)
        stored = store.get(settings.model, cls.kind)
        if stored.card.kind != cls.kind:
            raise ModelInvalid(
                f"model {stored.card.name!r} is for {stored.card.kind} engines, not for {cls.kind}."
            )
        if stored.card.calibration is not None and not cls.calibrates:
            raise ModelInvalid(
                f"the card of model {stored.card.name!r} has a calibration, which {cls.kind} engines cannot apply."
            )
        if cls.needs_volume_card and stored.card.volume is None:
            raise ModelInvalid(f"the card of model {stored.card.name!r} has no volume preprocessing.")
        from inference.running.device import (
            place,  # loads torch, which is for nothing where the model is absent
        )

        placement = place(
            replace(settings, backend="torch" if settings.backend == "auto" else settings.backend)
        )
        if placement.backend != "torch":
            raise EngineMisconfigured(f"engine {settings.name!r}: {cls.kind} runs on backend torch only.")
        engine = cls(settings, stored.card, cls.build(stored), placement)
        if placement.reduced:
            exact = copy(engine)
            exact.placement = placement.exact()
            check_precision(
                settings, stored.card.name, engine.drawn_probabilities(), exact.drawn_probabilities()
            )
        return engine

    @property
    def device(self) -> str:
        return self.placement.name

    @property
    def model(self) -> ModelIdentity:
        return self._identity

    @property
    def expected(self) -> Expectations | None:
        """Which inputs the model is for, by its card or its kind."""
        return self.card.expects or self.expects

    def prepare(self, files: Sequence[Path]) -> list[VolumeCase | Refusal]:
        """The volumes of one series; one refusal where there is none."""
        series = read_series(files, fewest_slices=self.fewest_slices)
        cases: list[VolumeCase | Refusal] = []
        reasons = list(series.refused)
        for volume in series.volumes:
            check = check_volume(self.card, self.expected, volume)
            prepared = check.refusal or self.prepare_volume(volume)
            if isinstance(prepared, str):
                reasons.append(prepared)
            else:
                cases.append(replace(prepared, check=check))
        return cases or [
            Refusal(path=files[0], reason=joined(*dict.fromkeys(reasons)) or "the series has no slices")
        ]

    def infer(self, cases: Sequence[VolumeCase]) -> list[Analysis]:
        """One volume after the other; windows or slices of each form the batches."""
        return [without_implausible(self.analyse(case), case.check.body_part) for case in cases]

    def run(self, batch: torch.Tensor) -> Any:
        """One forward pass without gradients, in the engine's number format."""
        import torch

        with torch.inference_mode(), self.placement.autocast():
            return self.network(batch.to(self.placement.device))

    def analysis(
        self,
        case: VolumeCase,
        started: float,
        findings: Iterable[Finding],
        *,
        review_advised: str | None = None,
        data: VolumeData | None = None,
        **more: Any,
    ) -> Analysis:
        """An analysis of a volume; ``data`` goes with the volume, ``more`` are further fields of the analysis."""
        frames = case.volume.frames
        middle = len(frames) // 2
        images = tuple({f.source.sop_instance_uid: f.source for f in frames}.values())
        return Analysis(
            source=frames[middle].source,
            model=self.model,
            findings=tuple(findings),
            picture=slice_picture(case.volume.values[middle], frames[middle], self.window),
            device=self.device,
            inference_time_ms=(perf_counter() - started) * 1000,
            disclaimer=self.card.disclaimer,
            review_advised=joined(case.check.review, review_advised),
            remarks=case.volume.remarks,
            volume=ScannedVolume(
                images=images,
                frame_of_reference_uid=frames[0].frame_of_reference_uid,
                spacing=(float(np.median(case.volume.gaps)), *frames[0].plane.spacing),
                shape=(len(frames), frames[0].rows, frames[0].columns),
                data=data,
            ),
            **more,
        )


def slice_picture(
    values: NDArray[np.generic], frame: Frame, window: tuple[float, float] | None
) -> NDArray[np.uint8]:
    """A slice as a person would see it, with square pixels."""
    grey = values.astype(np.float32)
    if window is None:
        low, high = np.percentile(grey, (0.5, 99.5))
    else:
        low, high = window[0] - window[1] / 2, window[0] + window[1] / 2
    shown = np.clip((grey - np.float32(low)) / np.float32(max(high - low, 1e-6)), 0, 1)
    picture = resample(
        shown, *(triangle_axis(n, m) for n, m in zip(shown.shape, picture_shape(frame), strict=True))
    )
    return np.clip(np.rint(picture * 255), 0, 255).astype(np.uint8)


def picture_shape(frame: Frame) -> tuple[int, int]:
    """Rows and columns of a slice's picture."""
    height, width = frame.rows * frame.plane.spacing[0], frame.columns * frame.plane.spacing[1]
    scale = max(frame.rows, frame.columns) / max(height, width)
    longest = max(height, width) * scale
    scale *= min(max(1.0, SHORTEST_SIDE / longest), LONGEST_SIDE / longest)
    return max(1, round(height * scale)), max(1, round(width * scale))


def heat_picture(heat: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
    """A heat map of a slice on its picture's grid, float32 in [0, 1]."""
    shape = picture_shape(frame)
    axes = (triangle_axis(n, m) for n, m in zip(heat.shape, shape, strict=True))
    return np.clip(resample(heat.astype(np.float32), *axes), 0, 1)


def segmentation_of(
    labels: NDArray[np.unsignedinteger],
    frames: Sequence[Frame],
    structures: Sequence[Structure],
) -> Segmentation | None:
    """Label maps of slices as those of stored frames; tiles of a mosaic go back to their places.

    ``labels`` has shape (slices, rows, columns). Frames without any label are left out; None where all are.
    """
    stored: dict[tuple[str, int | None], tuple[SourceImage, NDArray[np.unsignedinteger]]] = {}
    for label_map, frame in zip(labels, frames, strict=True):
        if not label_map.any():
            continue
        key = (frame.source.sop_instance_uid, frame.source.frame)
        if key not in stored:
            stored[key] = (
                frame.source,
                np.zeros((frame.source.rows, frame.source.columns), dtype=labels.dtype),
            )
        row, column = frame.origin
        stored[key][1][row : row + frame.rows, column : column + frame.columns] = label_map
    if not stored:
        return None
    present = set(np.unique(np.concatenate([np.unique(m) for _, m in stored.values()])).tolist())
    return Segmentation(
        images=tuple(image for image, _ in stored.values()),
        labels=np.stack([label_map for _, label_map in stored.values()]),
        structures=tuple(s for s in structures if s.value in present),
    )


def labelled_segmentation(
    labels: NDArray[np.uint16], grid: Grid, frames: Sequence[Frame], structures: Sequence[CardStructure]
) -> Segmentation | None:
    """A label map of a grid as a segmentation of the slices, with the volume of each structure."""
    counts = np.bincount(labels.ravel(), minlength=max((s.value for s in structures), default=0) + 1)
    found = [
        Structure(
            value=s.value,
            name=s.name,
            category=None if s.category is None else s.category.as_finding(),
            type=None if s.type is None else s.type.as_finding(),
            volume_mm3=float(counts[s.value]) * grid.voxel_mm3,
        )
        for s in structures
    ]
    return segmentation_of(to_frames(labels, grid.affine, frames), frames, found)
