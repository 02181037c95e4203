"""The model card: what a model is, what its outputs mean, and which weights it belongs to."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from inference import findings
from inference.store.architectures import Architecture
from inference.store.card_parts import (
    CardCalibration,
    CardLabel,
    CardModel,
    CardStructure,
    Preprocessing,
    Thresholds,
    VolumePreprocessing,
)
from inference.store.expects import Expectations
from inference.store.names import is_absence, normalised_name
from inference.store.thresholds import thresholds_for

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Form of a model's name, which is also the name of its folder."""

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
"""Fields of a card on which the numbers in results depend."""


class ModelCard(CardModel):
    """Everything that is needed to run a model and to name it in a report."""

    name: str = Field(pattern=NAME)
    version: str
    kind: str
    """Engine kind, for example ``chest_xray``."""
    manufacturer: str
    licence: str
    origin: str
    """Source of the weights: an address, a file's name or a training script."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """SHA-256 of the weights file beside the card."""
    files: dict[str, str] = Field(default_factory=dict)
    """SHA-256 of the other files that the model needs, by their names in its folder."""
    demonstration: bool = False
    input_size: int = Field(gt=0)
    input_channels: int = Field(default=1, gt=0)
    architecture: Architecture
    preprocessing: Preprocessing = Preprocessing()
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    negative_class: str = ""
    """The label which means that nothing was found, and which is never reported as a finding. A label whose name
    says so (``names.is_absence``) need not be named here."""
    calibration: CardCalibration | None = None
    """Calibration of the model's probabilities, applied before the operating points."""
    modalities: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Modalities that the model accepts; if empty, those of its engine kind."""
    disclaimer: str = ""
    """A sentence that goes into every object made with the model."""
    labels: Annotated[tuple[CardLabel, ...], Field(strict=False)] = ()
    """Labels in the order of the network's outputs."""
    volume: VolumePreprocessing | None = None
    """For models of volumes."""
    structures: Annotated[tuple[CardStructure, ...], Field(strict=False)] = ()
    """For models that segment."""
    triage_calibration: CardCalibration | None = None
    """For models that estimate malignancy: calibration of that logit."""
    training: str = ""
    """What the model was trained on, in a sentence or two."""
    auc: dict[str, float] = Field(default_factory=dict)
    """Area under the ROC curve on held-out data, by label."""
    froc: Annotated[tuple[tuple[float, float], ...], Field(strict=False)] = ()
    """For models that detect: pairs of false positives per scan and sensitivity on held-out data."""
    expects: Expectations | None = None
    """Inputs that the model is meant for; None takes the expectations of its engine kind."""

    @model_validator(mode="after")
    def _has_a_finding(self) -> ModelCard:
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
        """Index of the output which means that nothing was found: ``negative_class``, or one with such a name."""
        for output, label in enumerate(self.labels):
            if label.name and (
                label.name == self.negative_class if self.negative_class else is_absence(label.name)
            ):
                return output
        return None

    @property
    def reported(self) -> dict[int, CardLabel]:
        """The labels that can be findings, by index of their output: all trained ones but the negative class."""
        negative = self.negative
        return {i: label for i, label in enumerate(self.labels) if label.name and i != negative}

    def absence(
        self, logits: NDArray[np.float64], probabilities: NDArray[np.float64], calibrated: NDArray[np.float64]
    ) -> findings.Absence | None:
        """The negative class of a case, None if the model has none; all arrays have the shape (outputs,)."""
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
        """Index of a label's output, whatever the spelling of its name (``names.normalised_name``).

        Raises:
            ValueError: the model has no such label.
        """
        return [normalised_name(label.name) for label in self.labels].index(normalised_name(name))

    @property
    def numbers_digest(self) -> str:
        """Digest of the fields in ``NUMBERS``, so that changing a threshold makes another version."""
        numbers = self.model_dump_json(include=NUMBERS, exclude_defaults=True)
        return hashlib.sha256(numbers.encode()).hexdigest()[:8]

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
