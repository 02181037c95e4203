"""What a model expects of its inputs, as its card says it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator, model_validator

from inference.store.card_parts import CardModel
from inference.store.measures import MEASURES

if TYPE_CHECKING:
    pass

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
    measures: dict[str, Limits] = Field(default_factory=dict)
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
