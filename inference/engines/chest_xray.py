"""Chest radiographs: the findings of a classification network on frontal views.

Preprocessing and network are those of torchxrayvision; given the same weights and the same file, the
probabilities are too.

References
----------
Cohen et al., "TorchXRayVision: A library of chest X-ray datasets and models", MIDL 2022.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.calibration import normalise_operating_points, sigmoid
from inference.engine import ImageHeader, Selection
from inference.errors import EngineMisconfigured, ImageUnreadable, ModelInvalid
from inference.findings import (
    Analysis,
    Finding,
    Heatmap,
    Label,
    ModelIdentity,
    Presence,
    Refusal,
    SourceImage,
)
from inference.grey import grey_image
from inference.localization import heatmap_values, region_of
from inference.part10 import header_of
from inference.picture import picture_of
from inference.pixels import read_image
from inference.preprocessing import Square, network_input
from inference.radiography import HEADER_KEYWORDS, View, refusal_of, view_of

if TYPE_CHECKING:
    from inference.classifier import Classifier
    from inference.settings import EngineSettings
    from inference.store import ModelCard, ModelStore

MINIMUM_SIZE = 224  # pixels
EXPLANATION_METHOD = "Grad-CAM"
VIEW_UNKNOWN = "the header does not say that this is a frontal view"


@dataclass(frozen=True, kw_only=True)
class ChestXrayCase:
    """One radiograph, ready for the network: ``pixels`` is float32 of shape (1, size, size)."""

    source: SourceImage
    pixels: NDArray[np.float32] = field(repr=False)
    square: Square
    picture: NDArray[np.uint8] = field(repr=False)
    review_advised: str | None


class ChestXrayEngine:
    """A torchxrayvision-like network with Grad-CAM for what it finds."""

    kind: ClassVar[str] = "chest_xray"
    header_keywords: ClassVar[frozenset[str]] = HEADER_KEYWORDS

    def __init__(self, settings: EngineSettings, card: ModelCard, classifier: Classifier) -> None:
        self.settings = settings
        self._card = card
        self._classifier = classifier
        self._reported = {index: label.as_finding() for index, label in enumerate(card.labels) if label.name}
        self._operating_points = np.array(
            [np.nan if label.operating_point is None else label.operating_point for label in card.labels]
        )

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """Frontal radiographs of the chest."""
        refused = {
            header.sop_instance_uid: reason
            for header in headers
            if (reason := refusal_of(header, MINIMUM_SIZE)) is not None
        }
        inputs = tuple(h.sop_instance_uid for h in headers if h.sop_instance_uid not in refused)
        return Selection(inputs=inputs, refused=refused)

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model and run it once, so that the first study does not wait for that."""
        from inference.classifier import Classifier  # loads torch

        if settings.options:
            option = sorted(settings.options)[0]
            raise EngineMisconfigured(
                f"engine {settings.name!r}: {cls.kind} has no option {option!r}; remove it."
            )
        stored = store.get(settings.model)
        if stored.card.kind != cls.kind:
            raise ModelInvalid(
                f"model {stored.card.name!r} is for {stored.card.kind} engines, not for {cls.kind}."
            )
        engine = cls(settings, stored.card, Classifier.load(settings, stored))
        engine._warm_up()
        return engine

    @property
    def device(self) -> str:
        return self._classifier.device

    @property
    def model(self) -> ModelIdentity:
        return self._card.identity

    def prepare(self, files: Sequence[Path]) -> list[ChestXrayCase | Refusal]:
        """Decode and preprocess, one file at a time."""
        return [self._prepare(path) for path in files]

    def _prepare(self, path: Path) -> ChestXrayCase | Refusal:
        try:
            stored = read_image(path)
            header = header_of(stored.dataset, HEADER_KEYWORDS)
            refusal = refusal_of(header, MINIMUM_SIZE)
            if refusal is not None:
                return Refusal(path=path, reason=refusal)
            image = grey_image(stored)
            rows, columns = image.values.shape
            square = Square.centred(rows, columns)
            pixels = network_input(image, square, self._card.input_size, voi=self._card.preprocessing.voi)
        except ImageUnreadable as error:
            return Refusal(path=path, reason=str(error))
        return ChestXrayCase(
            source=SourceImage(
                path=path,
                study_instance_uid=str(stored.dataset.get("StudyInstanceUID", "")),
                series_instance_uid=str(stored.dataset.get("SeriesInstanceUID", "")),
                sop_class_uid=header.sop_class_uid,
                sop_instance_uid=header.sop_instance_uid,
                rows=rows,
                columns=columns,
            ),
            pixels=pixels,
            square=square,
            picture=picture_of(image),
            review_advised=VIEW_UNKNOWN if view_of(header) is View.UNKNOWN else None,
        )

    def infer(self, cases: Sequence[ChestXrayCase]) -> list[Analysis]:
        """One forward pass for all cases, then a heat map for each label that needs one.

        ``inference_time_ms`` of each analysis is its share of the batch's time.
        """
        if not cases:
            return []
        started = perf_counter()
        classification = self._classifier.classify(np.stack([case.pixels for case in cases]))
        probabilities = sigmoid(classification.logits)
        calibrated = normalise_operating_points(probabilities, self._operating_points)
        explained = [
            (row, output) for row in range(len(cases)) for output in self._to_explain(calibrated[row])
        ]
        maps = dict(zip(explained, self._classifier.explain(classification, explained), strict=True))
        elapsed_ms = (perf_counter() - started) * 1000 / len(cases)
        return [
            Analysis(
                source=case.source,
                model=self.model,
                findings=tuple(
                    self._finding(
                        case,
                        label,
                        logit=float(classification.logits[row, output]),
                        probability=float(probabilities[row, output]),
                        calibrated=float(calibrated[row, output]),
                        small_map=maps.get((row, output)),
                    )
                    for output, label in self._reported.items()
                ),
                picture=case.picture,
                device=self.device,
                inference_time_ms=elapsed_ms,
                review_advised=case.review_advised,
            )
            for row, case in enumerate(cases)
        ]

    def _to_explain(self, calibrated: NDArray[np.float64]) -> tuple[int, ...]:
        """Outputs at or above their high threshold; if there are none, the most probable one."""
        present = tuple(
            output
            for output, label in self._reported.items()
            if label.thresholds.presence(calibrated[output]) is Presence.PRESENT
        )
        return present or (max(self._reported, key=lambda output: float(calibrated[output])),)

    def _finding(
        self,
        case: ChestXrayCase,
        label: Label,
        *,
        logit: float,
        probability: float,
        calibrated: float,
        small_map: NDArray[np.float32] | None,
    ) -> Finding:
        heatmap, region = None, None
        if small_map is not None:
            source_shape = (case.source.rows, case.source.columns)
            values = heatmap_values(small_map, case.square, source_shape, case.picture.shape)
            heatmap = Heatmap(values=values, method=EXPLANATION_METHOD)
            if label.thresholds.presence(calibrated) is Presence.PRESENT:
                region = region_of(small_map, case.square)
        return Finding(
            label=label,
            logit=logit,
            probability=probability,
            calibrated_probability=calibrated,
            heatmap=heatmap,
            regions=() if region is None else (region,),
        )

    def _warm_up(self) -> None:
        size = self._card.input_size
        classification = self._classifier.classify(np.zeros((1, 1, size, size), dtype=np.float32))
        self._classifier.explain(classification, [(0, 0)])
