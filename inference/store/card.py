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
    files: dict[str, str] = Field(default_factory=dict)
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
    auc: dict[str, float] = Field(default_factory=dict)
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
