"""The base of the engines for volumes: choosing and reading series, and the stages of an analysis.

``prepare`` and ``conclude`` need no network, and work on a copy that another process can take
(:meth:`VolumeEngine.without_networks`). ``run`` is between them, and holds the device.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.checking.input_check import check_volume, joined
from inference.checking.plausibility import without_implausible
from inference.engines.options import FindingOptions, thresholds_of
from inference.engines.volume_case import VolumeCase, VolumeOutput
from inference.errors import EngineMisconfigured, ModelInvalid
from inference.findings import (
    Analysis,
    Finding,
    Label,
    ModelIdentity,
    Refusal,
    ScannedVolume,
    VolumeData,
)
from inference.headers import ImageHeader, Selection
from inference.running.precision import check_precision
from inference.settings import EngineOptions
from inference.store.identity import identity_of
from inference.store.thresholds import with_thresholds
from inference.volumes.pictures import slice_picture
from inference.volumes.volume import Volume, read_series

if TYPE_CHECKING:
    import torch
    from torch import nn

    from inference.running.device import Placement
    from inference.settings import EngineSettings
    from inference.store import ModelCard, ModelStore, StoredModel
    from inference.store.expects import Expectations


class VolumeEngine:
    """An engine for volumes; each kind says which series it takes and what it finds."""

    kind: ClassVar[str]
    header_keywords: ClassVar[frozenset[str]] = frozenset({"Modality", "BodyPartExamined", "ImageType"})
    takes_series: ClassVar[bool] = True
    batch_size: ClassVar[int] = 1
    backends: ClassVar[tuple[str, ...]] = ("torch",)
    """Those that the kind runs on."""
    modalities: ClassVar[tuple[str, ...]] = ("CT",)
    body_parts: ClassVar[str] = ".*"
    """Regular expression that Body Part Examined must match, if the series has one."""
    fewest_slices: ClassVar[int] = 3
    options: ClassVar[type[EngineOptions]] = FindingOptions
    needs_volume_card: ClassVar[bool] = True
    """Whether the card must describe the preprocessing of volumes."""
    calibrates: ClassVar[bool] = True
    """Whether the kind can apply a card's calibration to its certainties."""
    window: ClassVar[tuple[float, float] | None] = None
    """Centre and width for pictures, in modality values; None: the range of the values."""
    expects: ClassVar[Expectations | None] = None
    """What the kind expects of a volume if the model's card does not say."""

    def __init__(
        self, settings: EngineSettings, card: ModelCard, network: nn.Module, placement: Placement
    ) -> None:
        self.settings = settings
        self.card = card
        self.placement = placement
        self.device = placement.name
        """Device that the network runs on, for example ``cpu`` or ``cuda:0 NVIDIA H200``."""
        labels = with_thresholds(
            [label.as_finding() for label in card.reported.values()],
            thresholds_of(settings.checked(self.options)),
        )
        self.reported: dict[int, Label] = dict(zip(card.reported, labels, strict=True))
        """The labels that can be findings, with the settings' thresholds, by index of the network's output."""
        self._identity = identity_of([card], settings.options)
        self.network = network.eval().requires_grad_(False).to(placement.device)

    @classmethod
    def build(cls, stored: StoredModel) -> nn.Module:
        """The network of a card, with its weights.

        Raises:
            ModelInvalid: the card is not for this kind, or the weights do not fit it.
        """
        raise NotImplementedError

    def run_volume(self, case: VolumeCase) -> Any:
        """What the networks give for one volume, in values and arrays for :meth:`conclude_volume`."""
        raise NotImplementedError

    def conclude_volume(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """The analysis of one volume by what the networks gave for it; needs no network and no torch."""
        raise NotImplementedError

    def phantom_probabilities(self) -> list[NDArray[np.floating]]:
        """The network's probabilities for a fixed phantom, computed in the engine's number format.

        They serve to compare a reduced precision with fp32.
        """
        raise NotImplementedError

    def prepare_volume(self, volume: Volume) -> VolumeCase | str:
        """Preprocess one volume on the CPU, or return why the engine does not take it."""
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
        """All slices of a series that this kind takes; only reading them shows whether they form a volume."""
        return Selection.by(headers, cls.refusal)

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model onto its device, and compare a reduced precision with fp32.

        Raises:
            ModelAbsent: the model is not in the store.
            ModelInvalid: the model does not fit its card or this kind.
            EngineMisconfigured: the settings ask for something that this kind or machine does not have, or the
                model needs a higher precision.
        """
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
        from inference.running.device import place  # loads torch: only once the model is known to be there

        only = cls.backends[0] if settings.backend == "auto" and len(cls.backends) == 1 else settings.backend
        placement = place(replace(settings, backend=only))
        if placement.backend not in cls.backends:
            raise EngineMisconfigured(f"engine {settings.name!r}: {cls.kind} runs on backend torch only.")
        engine = cls(settings, stored.card, cls.build(stored), placement)
        if placement.backend == "openvino":
            engine.compile(stored)
        if placement.reduced:
            reduced, exact = engine.phantom_probabilities(), engine.exact().phantom_probabilities()
            check_precision(settings, stored.card.name, reduced, exact)
        return engine

    def compile(self, stored: StoredModel) -> None:
        """Prepare the network for backend openvino, for kinds that name it in ``backends``."""
        raise NotImplementedError

    def exact(self) -> Self:
        """The same engine in fp32."""
        exact = copy(self)
        exact.placement = self.placement.exact()
        return exact

    @property
    def model(self) -> ModelIdentity:
        """The model that makes the results."""
        return self._identity

    @property
    def expected(self) -> Expectations | None:
        """The inputs that the model is for, by its card or else by its kind."""
        return self.card.expects or self.expects

    def prepare(self, files: Sequence[Path]) -> list[VolumeCase | Refusal]:
        """Read and preprocess the volumes of one series; one refusal if it has none.

        Raises:
            OSError: a file cannot be opened or read now.
        """
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
        """Analyse one volume after the other; the windows or slices of each form batches."""
        return [self.conclude(case, output) for case, output in zip(cases, self.run(cases), strict=True)]

    def run(self, cases: Sequence[VolumeCase]) -> list[VolumeOutput]:
        """Run the networks on one volume after the other; the only stage that needs them and the device."""
        return [self._timed(case) for case in cases]

    def _timed(self, case: VolumeCase) -> VolumeOutput:
        started = perf_counter()
        values = self.run_volume(case)
        return VolumeOutput(values=values, inference_time_ms=(perf_counter() - started) * 1000)

    def conclude(self, case: VolumeCase, output: VolumeOutput) -> Analysis:
        """Measure, decide and draw what the networks gave for a case; implausible structures are left out.

        Args:
            case: as :meth:`prepare` gave it.
            output: of :meth:`run` for this case.
        """
        return without_implausible(self.conclude_volume(case, output), case.check.body_part)

    def without_networks(self) -> Self:
        """A copy for other processes, which can be pickled: it prepares and concludes, but cannot run."""
        lean = copy(self)
        # Unpickling a device or a number format would load torch.
        del lean.network, lean.placement
        lean.settings = replace(self.settings, options=dict(self.settings.options))
        return lean

    def forward(self, batch: torch.Tensor) -> Any:
        """Run one forward pass without gradients, in the engine's number format."""
        import torch

        with torch.inference_mode(), self.placement.autocast():
            return self.network(batch.to(self.placement.device))

    def analysis(
        self,
        case: VolumeCase,
        output: VolumeOutput,
        findings: Iterable[Finding],
        *,
        review_advised: str | None = None,
        data: VolumeData | None = None,
        **fields: Any,
    ) -> Analysis:
        """An analysis with the fields that are the same for all kinds.

        Args:
            case: the volume.
            output: of the networks.
            findings: about the volume as a whole.
            review_advised: a reason beside those of the input check.
            data: voxels, for files that show them.
            fields: further fields of :class:`Analysis`.
        """
        frames = case.volume.frames
        middle = len(frames) // 2
        images = tuple({f.source.sop_instance_uid: f.source for f in frames}.values())
        return Analysis(
            source=frames[middle].source,
            model=self.model,
            findings=tuple(findings),
            picture=slice_picture(case.volume.values[middle], frames[middle], self.window),
            device=self.device,
            inference_time_ms=output.inference_time_ms,
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
            **fields,
        )
