"""The base of the engines for single images: reading, preprocessing, prediction, calibration, explanation."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from inference.checking.input_check import HEADER_KEYWORDS, InputCheck, check_picture, header_refusal, joined
from inference.engines.options import ImageOptions, image_options_of, thresholds_of
from inference.errors import ImageUnreadable, ModelInvalid
from inference.findings import (
    Absence,
    Analysis,
    Finding,
    Heatmap,
    Label,
    ModelIdentity,
    Presence,
    Refusal,
    SourceImage,
)
from inference.headers import ImageHeader, Selection
from inference.images.grey import GreyImage, grey_image, grey_picture
from inference.images.localization import LocatedMap, heatmap_values, region_of
from inference.images.picture import picture_of
from inference.images.preprocessing import SCALES, Field, InputForm, field_of
from inference.reading.files import read_image, read_picture
from inference.reading.plain import is_plain_picture
from inference.settings import EngineOptions
from inference.store.combination import refusal_of
from inference.store.identity import identity_of
from inference.store.thresholds import with_thresholds

if TYPE_CHECKING:
    from inference.running.ensembles import Member, Prediction
    from inference.settings import EngineSettings
    from inference.store import ModelCard, ModelStore
    from inference.store.expects import Expectations

REVIEW_BELOW = 0.70
"""A review by a person is advised if the most probable class of a softmax is below this."""


@dataclass(frozen=True, kw_only=True)
class ImageCase:
    """One image, ready for the networks."""

    source: SourceImage
    inputs: dict[InputForm, NDArray[np.float32]] = field(repr=False)
    """Shape (channels, size, size) for each form of input that a member of the ensemble needs."""
    seen: Field
    """The part of the image that the first model sees."""
    picture: NDArray[np.uint8] = field(repr=False)
    review_advised: str | None
    check: InputCheck = field(default_factory=InputCheck, repr=False)

    def without_inputs(self) -> Self:
        """What a conclusion needs of the case."""
        return replace(self, inputs={})


@dataclass(frozen=True, kw_only=True)
class ImageOutput:
    """What the networks say of one image; arrays have the shape (classes,) unless noted."""

    logits: NDArray[np.float64]
    probabilities: NDArray[np.float64]
    calibrated: NDArray[np.float64]
    individual: NDArray[np.float64]
    """Calibrated probabilities of each pass, shape (passes, classes)."""
    deviation: NDArray[np.float64]
    maps: dict[int, LocatedMap] = field(repr=False)
    """Where the networks looked, by class, for the findings that need it."""
    milliseconds: float


class ImageEngine:
    """An engine for single images, with one model or an ensemble; each kind says which images it takes."""

    kind: ClassVar[str]
    header_keywords: ClassVar[frozenset[str]]
    minimum_size: ClassVar[int] = 32
    """Fewest rows and columns of an image."""
    takes_series: ClassVar[bool] = False
    batch_size: ClassVar[int] = 8
    options: ClassVar[type[EngineOptions]] = ImageOptions
    expects: ClassVar[Expectations | None] = None
    """What the kind expects of an image if the model's card does not say."""

    def __init__(self, settings: EngineSettings, card: ModelCard, members: Sequence[Member]) -> None:
        self.settings = settings
        self.card = card
        self.members = tuple(members)
        cards = [member.card for member in members]
        self.device = members[0].classifier.device
        self._forms = tuple(dict.fromkeys(form for member in members for form in member.forms))
        self._ensemble_size = sum(len(member.sizes) for member in members)
        self._disclaimer = " ".join(dict.fromkeys(c.disclaimer for c in cards if c.disclaimer))
        self._exclusive = (
            all(card.activation == "softmax" for card in cards)
            and len({card.negative is None for card in cards}) == 1
        )
        options = settings.checked(self.options)
        image_options = image_options_of(options)
        self._augment = image_options.tta
        defaults = {self.default_explanation(card) for card in cards}
        self._explanation = image_options.explanation or (
            defaults.pop() if len(defaults) == 1 else "Grad-CAM"
        )
        self._labels = with_thresholds(
            [label.as_finding() for label in card.reported.values()], thresholds_of(options)
        )
        self._identity = identity_of(cards, settings.options)

    # What each kind decides

    @classmethod
    def refusal(cls, header: ImageHeader) -> str | None:
        """Why an image is not for this kind, as a sentence; None if it is."""
        raise NotImplementedError

    def review_of(self, header: ImageHeader) -> str | None:
        """Why a person should review the result, judged by the image's header; None if there is no reason."""
        return None

    @classmethod
    def default_explanation(cls, card: ModelCard) -> str:
        """The method of explanation if the settings do not name one."""
        vit = getattr(card.architecture, "network", "") == "vit_b_16"
        return "Attention rollout" if vit else "Grad-CAM"

    # What all kinds share

    @classmethod
    def select(cls, headers: Sequence[ImageHeader]) -> Selection:
        """The images of a series that this kind takes, in their order."""
        return Selection.by(headers, cls.refusal)

    @classmethod
    def load(cls, settings: EngineSettings, store: ModelStore) -> Self:
        """Load the models and run them once, so that the first study does not wait for the warm-up.

        Raises:
            ModelAbsent: a model is not in the store.
            ModelInvalid: a model does not fit its card or this engine, or the models do not fit together.
            EngineMisconfigured: the settings ask for something that this engine or machine does not have.
        """
        image_options = image_options_of(settings.checked(cls.options))
        names = [settings.model, *image_options.ensemble]
        weights = image_options.weights or (1.0,) * len(names)
        scales = tuple(dict.fromkeys(image_options.scales))
        models = [store.get(name, cls.kind) for name in names]
        cards = [stored.card for stored in models]
        refusal = refusal_of(cards, cls.kind)
        if refusal is not None:
            raise ModelInvalid(refusal)
        # These load torch, which takes seconds: not before all models are known to be there.
        from inference.running.classifier import Classifier
        from inference.running.ensembles import Member

        members = [
            Member(
                card=stored.card,
                classifier=Classifier.load(settings, stored),
                columns=columns,
                sizes=scales or (stored.card.input_size,),
                weight=weight,
            )
            for stored, columns, weight in zip(models, columns_of(cards), weights, strict=True)
        ]
        engine = cls(settings, cards[0], members)
        engine._warm_up()
        return engine

    def without_networks(self) -> Self:
        """A copy that prepares and concludes in other processes; see :class:`inference.engine.StagedEngine`."""
        other = copy(self)
        other.members = ()
        return other

    @property
    def model(self) -> ModelIdentity:
        """The model, or the ensemble, that makes the results."""
        return self._identity

    @property
    def expected(self) -> Expectations | None:
        """The inputs that the model is for, by its card or else by its kind."""
        return self.card.expects or self.expects

    def prepare(self, files: Sequence[Path]) -> list[ImageCase | Refusal]:
        """Decode and preprocess the files, one at a time.

        Raises:
            OSError: a file cannot be opened or read now.
        """
        return [self._prepare_file(path) for path in files]

    def _prepare_file(self, path: Path) -> ImageCase | Refusal:
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
            return self._prepare_image(image, source, review)
        except ImageUnreadable as error:
            return Refusal(path=path, reason=str(error))

    def _prepare_image(self, image: GreyImage, source: SourceImage, review: str | None) -> ImageCase:
        inputs = {form: form.of(image) for form in self._forms}
        form, pixels = next(iter(inputs.items()))
        check = check_picture(self.expected, SCALES[form.style].to_brightness(pixels)[0])
        if check.refusal is not None:
            raise ImageUnreadable(check.refusal)
        return ImageCase(
            source=source,
            inputs=inputs,
            seen=field_of(self.card.preprocessing.style, *image.values.shape),
            picture=picture_of(image),
            review_advised=joined(review, check.review),
            check=check,
        )

    def infer(self, cases: Sequence[ImageCase]) -> list[Analysis]:
        """Run every network on all cases at once, then conclude each."""
        return [self.conclude(case, output) for case, output in zip(cases, self.run(cases), strict=True)]

    def run(self, cases: Sequence[ImageCase]) -> list[ImageOutput]:
        """Run every network on all cases at once, and make a map for each finding that needs one.

        ``milliseconds`` is each case's share of the batch's time.
        """
        if not cases:
            return []
        started = perf_counter()
        prediction = self._predict({f: np.stack([c.inputs[f] for c in cases]) for f in cases[0].inputs})
        explained = [
            (row, output)
            for row in range(len(cases))
            for output in self._outputs_to_explain(prediction.calibrated[row, : len(self._labels)])
        ]
        shapes = [(case.source.rows, case.source.columns) for case in cases]
        maps: list[dict[int, LocatedMap]] = [{} for _ in cases]
        located = prediction.explain(explained, self._explanation, shapes)
        for (row, output), values in zip(explained, located, strict=True):
            maps[row][output] = values
        milliseconds = (perf_counter() - started) * 1000 / len(cases)
        return [
            ImageOutput(
                logits=prediction.logits[row],
                probabilities=prediction.probabilities[row],
                calibrated=prediction.calibrated[row],
                individual=prediction.individual[:, row],
                deviation=prediction.deviation[row],
                maps=maps[row],
                milliseconds=milliseconds,
            )
            for row in range(len(cases))
        ]

    def conclude(self, case: ImageCase, output: ImageOutput) -> Analysis:
        """The findings of a case, with heat maps of the picture's size and regions. No network is needed."""
        analysis = Analysis(
            source=case.source,
            model=self.model,
            findings=tuple(
                self._finding(case, label, output, index) for index, label in enumerate(self._labels)
            ),
            absence=self._absence(output),
            exclusive=self._exclusive,
            picture=case.picture,
            device=self.device,
            inference_time_ms=output.milliseconds,
            ensemble_size=self._ensemble_size,
            tta_applied=self._augment,
            review_advised=case.review_advised,
            disclaimer=self._disclaimer,
        )
        return self._with_review_advice(analysis)

    def _predict(self, inputs: dict[InputForm, NDArray[np.float32]]) -> Prediction:
        from inference.running.ensembles import predict

        return predict(self.members, inputs, augment=self._augment)

    def _absence(self, output: ImageOutput) -> Absence | None:
        """The result for the negative class, which is the last column if all members have one."""
        negative = self.card.negative
        if negative is None or len(output.logits) == len(self._labels):
            return None
        return Absence(
            name=self.card.labels[negative].name,
            logit=float(output.logits[-1]),
            probability=float(output.probabilities[-1]),
            calibrated_probability=float(output.calibrated[-1]),
        )

    def _with_review_advice(self, analysis: Analysis) -> Analysis:
        """The analysis, with the advice to review it if its most probable class is uncertain."""
        prediction = analysis.prediction
        if prediction is None or prediction[1] >= REVIEW_BELOW:
            return analysis
        reason = f"the most probable class is below {REVIEW_BELOW:.0%}"
        return replace(analysis, review_advised=joined(analysis.review_advised, reason))

    def _outputs_to_explain(self, calibrated: NDArray[np.float64]) -> tuple[int, ...]:
        """The findings at or above their high threshold; if there are none, the most probable one."""
        present = tuple(
            output
            for output, label in enumerate(self._labels)
            if label.thresholds.presence(calibrated[output]) is Presence.PRESENT
        )
        return present or (int(calibrated.argmax()),)

    def _finding(self, case: ImageCase, label: Label, output: ImageOutput, index: int) -> Finding:
        heatmap, region = None, None
        certainty = float(output.calibrated[index])
        located = output.maps.get(index)
        if located is not None:
            source_shape = (case.source.rows, case.source.columns)
            values = heatmap_values(located.values, located.field, source_shape, case.picture.shape)
            heatmap = Heatmap(values=values, method=self._explanation)
            if label.thresholds.presence(certainty) is Presence.PRESENT:
                region = region_of(located.values, located.field)
        several = len(output.individual) > 1
        return Finding(
            label=label,
            logit=float(output.logits[index]),
            probability=float(output.probabilities[index]),
            calibrated_probability=certainty,
            ensemble_std=float(output.deviation[index]) if several else None,
            individual_predictions=tuple(float(p) for p in output.individual[:, index]) if several else (),
            heatmap=heatmap,
            regions=() if region is None else (region,),
        )

    def _warm_up(self) -> None:
        blank = {form: np.zeros((1, form.channels, form.size, form.size), np.float32) for form in self._forms}
        self._predict(blank).explain([(0, 0)], self._explanation, [(1, 1)])


def columns_of(cards: Sequence[ModelCard]) -> list[tuple[int, ...]]:
    """The columns of each model's output that belong to the ensemble's classes.

    The order is that of the first model's findings; the negative class follows if every model has one.
    """
    names = [label.name for label in cards[0].reported.values()]
    columns = [tuple(card.output_of(name) for name in names) for card in cards]
    negatives = [card.negative for card in cards]
    return [
        (*own, negative) if negative is not None and None not in negatives else own
        for own, negative in zip(columns, negatives, strict=True)
    ]


def _plain_source(path: Path, shape: tuple[int, ...]) -> SourceImage:
    """A picture file (PNG or JPEG) as a source image, without UIDs of a study or series."""
    return SourceImage(
        path=path,
        study_instance_uid="",
        series_instance_uid="",
        sop_class_uid="",
        sop_instance_uid=path.stem,
        rows=shape[0],
        columns=shape[1],
    )
