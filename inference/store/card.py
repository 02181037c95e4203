"""The model card: what a model is, what its outputs mean, and which weights it belongs to."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from inference import findings
from inference.checking.measures import MEASURES
from inference.store.names import is_absence, normalised_name
from inference.store.thresholds import thresholds_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""What a model may be called; a name is also the name of its folder."""


NUMBERS = {
    "files",
    "input_size",
    "input_channels",
    "architecture",
    "preprocessing",
    "activation",
    "negative_class",
    "calibration",
    "labels",
    "volume",
    "structures",
    "triage_calibration",
}
"""Fields of a card that results depend on."""


class CardModel(BaseModel):
    """Base of everything in a card: strict, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Code(CardModel):
    """A coded concept (PS3.16 section 8)."""

    value: str
    scheme: str
    meaning: str

    def as_finding(self) -> findings.Code:
        return findings.Code(value=self.value, scheme=self.scheme, meaning=self.meaning)


class Thresholds(CardModel):
    """Thresholds on the calibrated probability, in [0, 1], low <= high <= critical."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    critical: float = Field(ge=0, le=1)

    @model_validator(mode="after")
    def _ascend(self) -> Thresholds:
        if not self.low <= self.high <= self.critical:
            raise ValueError("thresholds must satisfy low <= high <= critical")
        return self


class CardLabel(CardModel):
    """One output of the model. An empty ``name``: the output was not trained and is not reported."""

    name: str
    finding: Code | None = None
    site: Code | None = None
    operating_point: float | None = Field(default=None, gt=0, lt=1)
    """Probability that becomes 0.5, as torchxrayvision's ``op_threshs``; None leaves probabilities alone."""
    thresholds: Thresholds | None = None
    """None: those of the card's engine kind (``inference.store.thresholds``), which a card that was read holds."""

    def as_finding(self) -> findings.Label:
        """The label as results carry it."""
        limits = self.thresholds
        assert limits is not None, "labels of a card have thresholds"
        return findings.Label(
            name=self.name,
            thresholds=findings.Thresholds(low=limits.low, high=limits.high, critical=limits.critical),
            finding=None if self.finding is None else self.finding.as_finding(),
            site=None if self.site is None else self.site.as_finding(),
        )


class DenseNetArchitecture(CardModel):
    """A DenseNet; the defaults are DenseNet-121."""

    family: Literal["densenet"] = "densenet"
    block_config: Annotated[tuple[int, ...], Field(strict=False)] = (6, 12, 24, 16)
    growth_rate: int = 32
    init_features: int = 64
    bottleneck: int = 4


class TorchvisionArchitecture(CardModel):
    """One of torchvision's classification networks, with its own parameter names."""

    family: Literal["torchvision"] = "torchvision"
    network: Literal[
        "densenet121",
        "resnet18",
        "resnet50",
        "efficientnet_b0",
        "efficientnet_b4",
        "convnext_base",
        "vit_b_16",
    ]


class PrototypeArchitecture(CardModel):
    """A concept prototype network: a backbone, concept maps, and prototypes that it compares regions with."""

    family: Literal["concept_prototype"] = "concept_prototype"
    backbone: Literal["resnet18", "resnet50", "vit_b_16"]
    concepts: Annotated[tuple[str, ...], Field(strict=False, min_length=1)]
    """Names in the order of the concept maps."""
    prototypes_per_concept: int = Field(gt=0)


class PivotArchitecture(CardModel):
    """The multi-task 3D U-Net of the PIVOT nodule system."""

    family: Literal["pivot"] = "pivot"
    init_features: int = Field(default=32, gt=0)
    depth: int = Field(default=4, gt=0)
    heads: Annotated[tuple[Literal["size", "triage"], ...], Field(strict=False)] = ("size", "triage")
    """What the network tells beside centres and masks; without ``triage`` nothing is said of malignancy."""


class MetastasisArchitecture(CardModel):
    """ResNet-50 with one input channel and the head 2048-512-1, one logit for a slice."""

    family: Literal["metastasis"] = "metastasis"


class HybridArchitecture(CardModel):
    """A network for three neighbouring slices, and how its predictions become one of the volume."""

    family: Literal["hybrid"] = "hybrid"
    backbone: DenseNetArchitecture | TorchvisionArchitecture = Field(discriminator="family")
    aggregator: Literal["max", "mean", "noisy_or", "attention", "lstm", "transformer"]
    mean_of: Literal["predictions", "logits"] = "predictions"
    """What the aggregators mean and attention average over the slices."""


class UnetResnetArchitecture(CardModel):
    """MONAI's 3D U-Net for a mask, and MONAI's 3D ResNet for the labels, both on the same windows."""

    family: Literal["unet_resnet"] = "unet_resnet"
    unet_channels: Annotated[tuple[int, ...], Field(strict=False)] = (16, 32, 64, 128, 256)
    resnet_layers: Annotated[tuple[int, ...], Field(strict=False)] = (2, 2, 2, 2)
    resnet_widths: Annotated[tuple[int, ...], Field(strict=False)] = (64, 128, 256, 512)


class NnunetArchitecture(CardModel):
    """A plain U-Net as nnU-Net's plans describe it, run as MONAI's DynUNet."""

    family: Literal["nnunet"] = "nnunet"
    features: Annotated[tuple[int, ...], Field(strict=False)]
    kernel_sizes: Annotated[tuple[tuple[int, int, int], ...], Field(strict=False)]
    strides: Annotated[tuple[tuple[int, int, int], ...], Field(strict=False)]
    input_channels: int = Field(default=1, gt=0)
    patch_size: Annotated[tuple[int, int, int], Field(strict=False)]
    normalisation: Literal[
        "CTNormalization",
        "ZScoreNormalization",
        "NoNormalization",
        "RescaleTo01Normalization",
        "RGBTo01Normalization",
    ]
    intensity: dict[str, float] = {}
    """Of the training images' foreground: mean, std, percentile_00_5, percentile_99_5."""
    masked: bool = False
    """Whether the z-score is that of the voxels which are not 0."""
    mirror_axes: Annotated[tuple[int, ...], Field(strict=False)] = ()
    """Axes of the network along which test-time augmentation may mirror."""
    canonical: bool = False
    """Whether images were turned to RAS for the training."""
    transpose: Annotated[tuple[int, int, int], Field(strict=False)] = (0, 1, 2)
    """Order of the image's axes (slice, row, column) in the network."""
    folds: int = Field(default=1, gt=0)
    """Networks whose logits are averaged; of several, tensors are named ``folds.N.`` and so on."""


class BundleArchitecture(CardModel):
    """A MONAI bundle: its configuration lies in the model's folder and says everything."""

    family: Literal["bundle"] = "bundle"
    output: Literal["segmentation", "classification", "detection"]
    code_allowed: bool = False
    """Whether expressions and classes of the bundle that are no configuration of MONAI and torch may run."""


Architecture = Annotated[
    DenseNetArchitecture
    | TorchvisionArchitecture
    | PrototypeArchitecture
    | PivotArchitecture
    | MetastasisArchitecture
    | HybridArchitecture
    | UnetResnetArchitecture
    | NnunetArchitecture
    | BundleArchitecture,
    Field(discriminator="family"),
]


class VolumePreprocessing(CardModel):
    """How a volume's modality values become the network's input.

    ``spacing`` is (slice, row, column) in mm; None keeps the slices as they were scanned. Values are clipped
    to ``low`` and ``high`` (Hounsfield units for CT) and scaled to [0, 1], then perhaps z-scored.
    """

    spacing: Annotated[tuple[float, float, float], Field(strict=False)] | None = None
    low: float = -1000.0
    high: float = 400.0
    normalisation: Literal["minmax", "zscore"] = "minmax"
    resize: Literal["antialias", "linear"] = "antialias"
    """How slices become ``input_size``: averaged where they shrink, or interpolated between two pixels as OpenCV's
    INTER_LINEAR."""


class CardStructure(CardModel):
    """One label value of a segmentation, above 0."""

    value: int = Field(gt=0)
    name: str
    category: Code | None = None
    type: Code | None = None


class Preprocessing(CardModel):
    """How an image's values become the network's input.

    ``torchxrayvision``: centre square, [-1024, 1024]. ``imagenet``: the whole 8-bit picture by PIL's
    bilinear resize, three equal channels, ImageNet's mean and standard deviation. ``unit``: the same
    without the normalisation, in [0, 1].
    """

    style: Literal["torchxrayvision", "imagenet", "unit"] = "torchxrayvision"
    voi: bool = False
    """Apply the header's VOI transformation."""


class Temperature(CardModel):
    """Logits are divided by ``temperature`` (Guo et al., ICML 2017)."""

    method: Literal["temperature"] = "temperature"
    temperature: float = Field(gt=0)


class Platt(CardModel):
    """Logistic regression on each label's logit: sigmoid(slope * logit + intercept) (Platt, 1999)."""

    method: Literal["platt"] = "platt"
    slopes: Annotated[tuple[float, ...], Field(strict=False)]
    intercepts: Annotated[tuple[float, ...], Field(strict=False)]


class Isotonic(CardModel):
    """A monotone step-wise linear function of each label's probability (Zadrozny and Elkan, KDD 2002)."""

    method: Literal["isotonic"] = "isotonic"
    knots: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]
    values: Annotated[tuple[tuple[float, ...], ...], Field(strict=False)]


CardCalibration = Annotated[Temperature | Platt | Isotonic, Field(discriminator="method")]


Span = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""From a value to another one, both included; None is open."""


def _known(names: Iterable[str]) -> None:
    for name in names:
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MEASURES)}"
            raise ValueError(f"there is no measure {name!r}; {hint}")


class Limits(CardModel):
    """Values of one figure: outside of ``refuse`` an input is refused, outside of ``review`` a review is advised."""

    refuse: Span = (None, None)
    review: Span = (None, None)
    meaning: str = ""
    """What a value outside says of the input, for the reason: "this may be no head of a patient"."""

    @field_validator("refuse", "review")
    @classmethod
    def _ascend(cls, span: Span) -> Span:
        low, high = span
        if low is not None and high is not None and low > high:
            raise ValueError(f"{low:g} is above {high:g}: the smaller value comes first")
        return span


class Joint(CardModel):
    """How figures of the training cases go together: their Mahalanobis distance, above ``most`` review is advised.

    ``precision`` is the inverse of their correlation matrix, in the order of ``names``.
    """

    names: Annotated[tuple[str, ...], Field(strict=False)]
    means: Annotated[tuple[float, ...], Field(strict=False)]
    deviations: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)]
    precision: Annotated[tuple[Annotated[tuple[float, ...], Field(strict=False)], ...], Field(strict=False)]
    most: float = Field(gt=0)

    @model_validator(mode="after")
    def _fits(self) -> Joint:
        count = len(self.names)
        if {len(self.means), len(self.deviations), len(self.precision), *map(len, self.precision)} != {count}:
            raise ValueError(
                f"means, deviations and precision have to be for the {count} figures that names lists"
            )
        _known(self.names)
        return self


class Expectations(CardModel):
    """Which inputs a model is for; what is not said is not checked (``input_check.py``)."""

    modalities: Annotated[tuple[str, ...], Field(strict=False)] = ()
    body_parts: str = ""
    """Regular expression on the whole of Body Part Examined; an image without one passes."""
    views: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """View Positions; an image without one passes."""
    measures: dict[str, Limits] = {}
    """Limits by the names of ``measures.MEASURES``."""
    joint: Joint | None = None
    """Written with the review ranges where there are enough cases."""
    cases: int = Field(default=0, ge=0)
    """How many cases the review ranges were computed of; 0: they were written by hand."""

    @field_validator("body_parts")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return pattern

    @field_validator("measures")
    @classmethod
    def _are_known(cls, measures: dict[str, Limits]) -> dict[str, Limits]:
        _known(measures)
        return measures


class ModelCard(CardModel):
    """Everything that has to be known of a model to run it and to name it in a report."""

    name: str = Field(pattern=NAME)
    version: str
    kind: str
    """Engine kind, for example ``chest_xray``."""
    manufacturer: str
    licence: str
    origin: str
    """Where the weights came from: an address, a file's name or the training script."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Digest of the weights file beside the card."""
    files: dict[str, str] = {}
    """Digests of the other files in the model's folder that it needs, by name."""
    demonstration: bool = False
    input_size: int = Field(gt=0)
    input_channels: int = Field(default=1, gt=0)
    architecture: Architecture
    preprocessing: Preprocessing = Preprocessing()
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    negative_class: str = ""
    """The label that means that nothing was found, never reported as a finding; one that plainly does needs not
    be named here."""
    calibration: CardCalibration | None = None
    """Applied to the probabilities of the model, before its operating points."""
    modalities: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modalities whose images the model takes; none: those of its engine kind."""
    disclaimer: str = ""
    """A sentence that every object of the model carries."""
    labels: Annotated[tuple[CardLabel, ...], Field(strict=False)] = ()
    """In the order of the network's outputs."""
    volume: VolumePreprocessing | None = None
    """For models of volumes."""
    structures: Annotated[tuple[CardStructure, ...], Field(strict=False)] = ()
    """For models that segment."""
    triage_calibration: CardCalibration | None = None
    """For models that judge malignancy: calibration of that logit."""
    training: str = ""
    """What the model was trained on, in a sentence or two."""
    auc: dict[str, float] = {}
    """Area under the ROC curve on held-out data, by label."""
    froc: Annotated[tuple[tuple[float, float], ...], Field(strict=False)] = ()
    """For models that detect: false positives a scan and sensitivity on held-out data."""
    expects: Expectations | None = None
    """Which inputs the model is for; None: what its engine kind expects."""

    @model_validator(mode="after")
    def _finds_something(self) -> ModelCard:
        if not self.labels and not self.structures:
            raise ValueError("a model needs labels or structures")
        if self.negative_class and self.negative_class not in [label.name for label in self.labels]:
            raise ValueError(f"negative_class {self.negative_class!r} is none of the labels")
        named = [label.name for label in self.labels if label.name]
        absences = [name for name in named if name == self.negative_class or is_absence(name)]
        if len(absences) > 1:
            raise ValueError(
                f"labels {', '.join(absences)} all mean that nothing was found; a model has one such class"
            )
        if not self.reported and not self.structures:
            raise ValueError("a model needs a label that can be a finding")
        return self

    @model_validator(mode="after")
    def _labels_have_thresholds(self) -> ModelCard:
        labels = tuple(self._with_thresholds(label) for label in self.labels)
        object.__setattr__(self, "labels", labels)  # the card is frozen for everyone else
        return self

    def _with_thresholds(self, label: CardLabel) -> CardLabel:
        if label.thresholds is not None:
            return label
        try:
            limits = thresholds_for(self.kind, label.name)
        except KeyError:
            raise ValueError(f"label {label.name!r} needs thresholds: {self.kind} has no defaults") from None
        return label.model_copy(
            update={"thresholds": Thresholds(low=limits.low, high=limits.high, critical=limits.critical)}
        )

    @property
    def negative(self) -> int | None:
        """The output that means that nothing was found: that of ``negative_class``, or one that is called so."""
        for output, label in enumerate(self.labels):
            if label.name and (
                label.name == self.negative_class if self.negative_class else is_absence(label.name)
            ):
                return output
        return None

    @property
    def reported(self) -> dict[int, CardLabel]:
        """The labels that can be findings by their output: trained, and not the negative class."""
        negative = self.negative
        return {i: label for i, label in enumerate(self.labels) if label.name and i != negative}

    def absence(
        self, logits: NDArray[np.float64], probabilities: NDArray[np.float64], calibrated: NDArray[np.float64]
    ) -> findings.Absence | None:
        """What a case's outputs, shape (outputs,), say of the negative class; None where there is none."""
        output = self.negative
        if output is None:
            return None
        return findings.Absence(
            name=self.labels[output].name,
            logit=float(logits[output]),
            probability=float(probabilities[output]),
            calibrated_probability=float(calibrated[output]),
        )

    def output_of(self, name: str) -> int:
        """The output of a label, however its name is spelt.

        Raises:
            ValueError: there is none.
        """
        return [normalised_name(label.name) for label in self.labels].index(normalised_name(name))

    @property
    def numbers_digest(self) -> str:
        """Digest of all that the card says about numbers: whoever changes a threshold makes another version."""
        said = self.model_dump_json(include=NUMBERS, exclude_defaults=True)
        return hashlib.sha256(said.encode()).hexdigest()[:8]

    @property
    def identity(self) -> findings.ModelIdentity:
        """The model as reports name it; its version ends in the starts of two digests, of weights and numbers."""
        return findings.ModelIdentity(
            name=self.name,
            version=f"{self.version}+{self.sha256[:12]}.{self.numbers_digest}",
            sha256=self.sha256,
            kind=self.kind,
            manufacturer=self.manufacturer,
            licence=self.licence,
            demonstration=self.demonstration,
        )
