"""Parts of a model card: codes, thresholds, labels, preprocessing, calibration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from inference import findings


class CardModel(BaseModel):
    """Base of everything in a card: strict, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Code(CardModel):
    """A coded concept (PS3.16 section 8)."""

    value: str
    scheme: str
    meaning: str

    def as_finding(self) -> findings.Code:
        """The concept as results carry it."""
        return findings.Code(value=self.value, scheme=self.scheme, meaning=self.meaning)


class Thresholds(CardModel):
    """Thresholds on the calibrated probability, in [0, 1], low <= high <= critical."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    critical: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ascend(self) -> Thresholds:
        if not self.low <= self.high <= self.critical:
            raise ValueError("low, high and critical have to ascend")
        return self

    def as_finding(self) -> findings.Thresholds:
        """The thresholds as results carry them."""
        return findings.Thresholds(low=self.low, high=self.high, critical=self.critical)


class CardLabel(CardModel):
    """One output of the model. An output with an empty ``name`` was not trained and is not reported."""

    name: str
    finding: Code | None = None
    site: Code | None = None
    operating_point: float | None = Field(default=None, gt=0, lt=1)
    """Probability that becomes 0.5, as in torchxrayvision's ``op_threshs``; None leaves probabilities unchanged."""
    thresholds: Thresholds | None = None
    """None takes the defaults of the card's engine kind (``inference.store.thresholds``); ``ModelCard`` fills them
    in."""

    def as_finding(self) -> findings.Label:
        """The label as results carry it."""
        limits = self.thresholds
        assert limits is not None, "labels of a card have thresholds"
        return findings.Label(
            name=self.name,
            thresholds=limits.as_finding(),
            finding=None if self.finding is None else self.finding.as_finding(),
            site=None if self.site is None else self.site.as_finding(),
        )


class VolumePreprocessing(CardModel):
    """How a volume's modality values become the network's input.

    ``spacing`` is (slice, row, column) in mm; None keeps the slices as they were scanned. Values are clipped to
    [``low``, ``high``] (Hounsfield units for CT) and scaled to [0, 1]. With ``zscore`` they are then z-scored.
    """

    spacing: Annotated[tuple[float, float, float], Field(strict=False)] | None = None
    low: float = -1000.0
    high: float = 400.0
    normalisation: Literal["minmax", "zscore"] = "minmax"
    resize: Literal["antialias", "linear"] = "antialias"
    """How slices are resized to ``input_size``: averaged if they shrink, or always interpolated between two pixels as
    by OpenCV's INTER_LINEAR."""


class CardStructure(CardModel):
    """One label value of a segmentation, above 0."""

    value: int = Field(gt=0)
    name: str
    category: Code | None = None
    type: Code | None = None


class Preprocessing(CardModel):
    """How an image's values become the network's input.

    Styles are ``torchxrayvision`` (the centre square, in [-1024, 1024]), ``imagenet`` (the whole 8-bit picture
    after PIL's bilinear resize, three equal channels, normalised by ImageNet's mean and standard deviation) and
    ``unit`` (the same without the normalisation, in [0, 1]).
    """

    style: Literal["torchxrayvision", "imagenet", "unit"] = "torchxrayvision"
    voi: bool = False
    """Whether to apply the header's VOI transformation."""


class Temperature(CardModel):
    """Temperature scaling: logits are divided by ``temperature`` (Guo et al., ICML 2017)."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)


class Platt(CardModel):
    """Platt scaling: sigmoid(slope * logit + intercept) for each label (Platt, 1999)."""

    method: Literal["platt"] = "platt"
    slopes: Annotated[tuple[float, ...], Field(strict=False)]
    intercepts: Annotated[tuple[float, ...], Field(strict=False)]


class Isotonic(CardModel):
    """Isotonic regression: a monotone function of each label's probability (Zadrozny and Elkan, KDD 2002).

    It is linear between ``knots``, where it has the given ``values``.
    """

    method: Literal["isotonic"] = "isotonic"
    knots: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]
    values: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]


CardCalibration = Annotated[Temperature | Platt | Isotonic, Field(discriminator="method")]
