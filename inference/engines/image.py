"""What the engines for single images share: reading, preprocessing, prediction, calibration, explanation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.calibration import ACTIVATIONS, calibrate, normalise_operating_points
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
from inference.grey import GreyImage, grey_image
from inference.input_check import HEADER_KEYWORDS, InputCheck, check_picture, header_refusal, joined
from inference.localization import heatmap_values, region_of
from inference.picture import picture_of
from inference.plain_pictures import grey_picture, is_plain_picture
from inference.preprocessing import SCALES, Field, field_of, network_input
from inference.reading import read_image, read_picture
from inference.thresholds import with_thresholds

if TYPE_CHECKING:
    from inference.ensembles import Member, Prediction
    from inference.settings import EngineSettings
    from inference.store import ModelCard, ModelStore
    from inference.store.card import Expectations

CERTAIN = 0.70
"""A softmax engine whose most probable class is below this advises a review by a person."""


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """One image, ready for the networks: ``inputs`` has float32 (channels, size, size) for each size."""

    source: SourceImage
    inputs: dict[int, NDArray[np.float32]] = field(repr=False)
    seen: Field
    picture: NDArray[np.uint8] = field(repr=False)
    review_advised: str | None
    check: InputCheck = field(default_factory=InputCheck, repr=False)


class ImageEngine:
    """An engine for single images; a kind says which images it takes."""

    kind: ClassVar[str]
    header_keywords: ClassVar[frozenset[str]]
    minimum_size: ClassVar[int] = 32
    """Rows and columns that an image must have, in pixels."""
    takes_series: ClassVar[bool] = False
    batch_size: ClassVar[int] = 8
    options: ClassVar[tuple[str, ...]] = ("ensemble", "weights", "scales", "tta", "explanation", "thresholds")
    """Keys of the ``[[engine]]`` table that the kind has besides the common ones."""
    expects: ClassVar[Expectations | None] = None
    """What the kind expects of an image, where the model's card says nothing."""

    def __init__(self, settings: EngineSettings, card: ModelCard, members: Sequence[Member]) -> None:
        self.settings = settings
        self.card = card
        self.members = tuple(members)
        self._augment = bool(settings.options.get("tta", False))
        self._method = str(settings.options.get("explanation", self.default_explanation(card)))
        reported = {index: label.as_finding() for index, label in enumerate(card.labels) if label.name}
        limited = with_thresholds(list(reported.values()), settings.options.get("thresholds", {}))
        self._reported = dict(zip(reported, limited, strict=True))
        self._operating_points = np.array(
            [np.nan if label.operating_point is None else label.operating_point for label in card.labels]
        )

    # What a kind decides

    @classmethod
    def refusal(cls, header: ImageHeader) -> str | None:
        """Why an image is not for this kind, as a sentence; None if it is."""
        raise NotImplementedError

    def review_of(self, header: ImageHeader) -> str | None:
        """Why a person should look at the result again because of how the image was described."""
        return None

    @classmethod
    def default_explanation(cls, card: ModelCard) -> str:
        """The explanation to use where the settings name none."""
        vit = getattr(card.architecture, "network", "") == "vit_b_16"
        return "Attention rollout" if vit else "Grad-CAM"

    # What is the same for all

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """The images of a series that this kind takes, in their order."""
        return Selection.by(headers, cls.refusal)

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the model and run it once, so that the first study does not wait for that."""
        settings.check_options(cls.options)
        names = [settings.model, *_list_of(settings, "ensemble", str)]
        weights = _list_of(settings, "weights", float) or [1.0] * len(names)
        scales: list[int | None] = list(_list_of(settings, "scales", int)) or [None]
        if len(weights) != len(names) or min(weights) <= 0:
            raise EngineMisconfigured(
                f"engine {settings.name!r}: weights needs one number above 0 for each of its {len(names)} models."
            )
        models = [store.get(name, cls.kind) for name in names]
        card = models[0].card
        for stored in models:
            if stored.card.kind != cls.kind:
                raise ModelInvalid(
                    f"model {stored.card.name!r} is for {stored.card.kind} engines, not for {cls.kind}."
                )
            if [x.name for x in stored.card.labels] != [x.name for x in card.labels]:
                raise ModelInvalid(f"models {card.name!r} and {stored.card.name!r} have different labels.")
        # They load torch, which takes seconds, and is for nothing where a model is absent.
        from inference.classifier import Classifier
        from inference.ensembles import Member

        members: list[Member] = []
        for stored, weight in zip(models, weights, strict=True):
            classifier = Classifier.load(settings, stored)
            members += [
                Member(classifier=classifier, input_size=size or stored.card.input_size, weight=weight)
                for size in scales
            ]
        engine = cls(settings, card, members)
        engine._warm_up()
        return engine

    @property
    def device(self) -> str:
        return self.members[0].classifier.device

    @property
    def model(self) -> ModelIdentity:
        return self.card.identity

    @property
    def expected(self) -> Expectations | None:
        """Which inputs the model is for, by its card or its kind."""
        return self.card.expects or self.expects

    def prepare(self, files: Sequence[Path]) -> list[ImageCase | Refusal]:
        """Decode and preprocess, one file at a time."""
        return [self._prepare(path) for path in files]

    def _prepare(self, path: Path) -> ImageCase | Refusal:
        try:
            if is_plain_picture(path):
                cells = read_picture(path)
                image, source, review = grey_picture(cells), _plain_source(path, cells.shape), None
            else:
                stored = read_image(path, self.header_keywords | HEADER_KEYWORDS)
                refusal = self.refusal(stored.header) or header_refusal(self.expected, stored.header)
                if refusal is not None:
                    return Refusal(path=path, reason=refusal)
                image, source, review = grey_image(stored), stored.source, self.review_of(stored.header)
            return self._case(image, source, review)
        except ImageUnreadable as error:
            return Refusal(path=path, reason=str(error))

    def _case(self, image: GreyImage, source: SourceImage, review: str | None) -> ImageCase:
        preprocessing = self.card.preprocessing
        seen = field_of(preprocessing.style, *image.values.shape)
        inputs = {
            size: network_input(
                image,
                seen,
                size,
                voi=preprocessing.voi,
                style=preprocessing.style,
                channels=self.card.input_channels,
            )
            for size in dict.fromkeys(member.input_size for member in self.members)
        }
        brightness = SCALES[preprocessing.style].to_brightness(next(iter(inputs.values())))
        check = check_picture(self.expected, brightness[0])
        if check.refusal is not None:
            raise ImageUnreadable(check.refusal)
        return ImageCase(
            source=source,
            inputs=inputs,
            seen=seen,
            picture=picture_of(image),
            review_advised=joined(review, check.review),
            check=check,
        )

    def infer(self, cases: Sequence[ImageCase]) -> list[Analysis]:
        """One forward pass of each network for all cases, then a heat map for each label that needs one.

        ``inference_time_ms`` of each analysis is its share of the batch's time.
        """
        if not cases:
            return []
        started = perf_counter()
        prediction = self._predict({s: np.stack([c.inputs[s] for c in cases]) for s in cases[0].inputs})
        calibrated = normalise_operating_points(
            calibrate(
                self.card.calibration, prediction.logits, prediction.probabilities, self.card.activation
            ),
            self._operating_points,
        )
        explained = [
            (row, output) for row in range(len(cases)) for output in self._to_explain(calibrated[row])
        ]
        maps = dict(zip(explained, prediction.explain(explained, self._method), strict=True))
        elapsed_ms = (perf_counter() - started) * 1000 / len(cases)
        return [
            Analysis(
                source=case.source,
                model=self.model,
                findings=tuple(
                    self._finding(case, label, prediction, row, output, calibrated, maps.get((row, output)))
                    for output, label in self._reported.items()
                ),
                picture=case.picture,
                device=self.device,
                inference_time_ms=elapsed_ms,
                ensemble_size=len(self.members),
                tta_applied=self._augment,
                review_advised=case.review_advised or self._uncertain(calibrated[row]),
                remarks=(self.card.disclaimer,) if self.card.disclaimer else (),
            )
            for row, case in enumerate(cases)
        ]

    def _predict(self, inputs: dict[int, NDArray[np.float32]]) -> Prediction:
        from inference.ensembles import predict

        return predict(
            self.members,
            inputs,
            SCALES[self.card.preprocessing.style],
            ACTIVATIONS[self.card.activation],
            augment=self._augment,
        )

    def _uncertain(self, probabilities: NDArray[np.float64]) -> str | None:
        if self.card.activation != "softmax" or probabilities.max() >= CERTAIN:
            return None
        return f"the most probable class is below {CERTAIN:.0%}"

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
        case: ImageCase,
        label: Label,
        prediction: Prediction,
        row: int,
        output: int,
        calibrated: NDArray[np.float64],
        small_map: NDArray[np.float32] | None,
    ) -> Finding:
        heatmap, region = None, None
        certainty = float(calibrated[row, output])
        if small_map is not None:
            source_shape = (case.source.rows, case.source.columns)
            values = heatmap_values(small_map, case.seen, source_shape, case.picture.shape)
            heatmap = Heatmap(values=values, method=self._method)
            if label.thresholds.presence(certainty) is Presence.PRESENT:
                region = region_of(small_map, case.seen)
        several = len(prediction.passes) > 1
        return Finding(
            label=label,
            logit=float(prediction.logits[row, output]),
            probability=float(prediction.probabilities[row, output]),
            calibrated_probability=certainty,
            ensemble_std=float(prediction.deviation[row, output]) if several else None,
            individual_predictions=tuple(float(p) for p in prediction.individual[:, row, output])
            if several
            else (),
            heatmap=heatmap,
            regions=() if region is None else (region,),
        )

    def _warm_up(self) -> None:
        channels = self.card.input_channels
        sizes = dict.fromkeys(member.input_size for member in self.members)
        blank = {size: np.zeros((1, channels, size, size), dtype=np.float32) for size in sizes}
        self._predict(blank).explain([(0, 0)], self._method)


def _list_of(settings: EngineSettings, option: str, kind: type[Any]) -> list[Any]:
    value = settings.options.get(option, [])
    if not isinstance(value, list) or any(not isinstance(item, (kind, int)) for item in value):
        raise EngineMisconfigured(f"engine {settings.name!r}: {option} has to be a list of {kind.__name__}.")
    return [kind(item) for item in value]


def _plain_source(path: Path, shape: tuple[int, ...]) -> SourceImage:
    return SourceImage(
        path=path,
        study_instance_uid="",
        series_instance_uid="",
        sop_class_uid="",
        sop_instance_uid=path.stem,
        rows=shape[0],
        columns=shape[1],
    )
