"""The part of a model card that says which inputs the model expects."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from inference.store.card_parts import CardModel
from inference.store.measures import MEASURES

Span = Annotated[tuple[float | None, float | None], Field(strict=False)]
"""Lowest and highest value, both included; None sets no limit."""


def _check_measures_exist(names: Iterable[str]) -> None:
    for name in names:
        if name not in MEASURES:
            near = get_close_matches(name, MEASURES, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(MEASURES)}"
            raise ValueError(f"there is no measure {name!r}; {hint}")


class Limits(CardModel):
    """Limits of one measure: outside of ``refuse`` an input is refused, outside of ``review`` a review is advised."""

    refuse: Span = (None, None)
    review: Span = (None, None)
    meaning: str = ""
    """What a value outside of the limits suggests, for the reason: "this may be no head of a patient"."""

    @field_validator("refuse", "review")
    @classmethod
    def _ascend(cls, span: Span) -> Span:
        low, high = span
        if low is not None and high is not None and low > high:
            raise ValueError(f"{low:g} is above {high:g}: the smaller value comes first")
        return span


class Joint(CardModel):
    """How measures of the training cases vary together.

    A review is advised if the Mahalanobis distance of an input's measures is above ``most``. ``precision`` is the
    inverse of their correlation matrix, in the order of ``names``.
    """

    names: Annotated[tuple[str, ...], Field(strict=False)]
    means: Annotated[tuple[float, ...], Field(strict=False)]
    deviations: Annotated[tuple[Annotated[float, Field(gt=0)], ...], Field(strict=False)]
    precision: Annotated[tuple[Annotated[tuple[float, ...], Field(strict=False)], ...], Field(strict=False)]
    most: float = Field(gt=0)

    @model_validator(mode="after")
    def _has_one_size(self) -> Joint:
        count = len(self.names)
        if {len(self.means), len(self.deviations), len(self.precision), *map(len, self.precision)} != {count}:
            raise ValueError(
                f"means, deviations and precision have to be for the {count} figures that names lists"
            )
        _check_measures_exist(self.names)
        return self


class Expectations(CardModel):
    """Which inputs a model is meant for; what is left out is not checked (``inference.checking.input_check``)."""

    modalities: Annotated[tuple[str, ...], Field(strict=False)] = ()
    body_parts: str = ""
    """Regular expression that must match the whole of Body Part Examined; an image without that attribute passes."""
    views: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Accepted values of View Position; an image without that attribute passes."""
    measures: dict[str, Limits] = Field(default_factory=dict)
    """Limits by names of ``measures.MEASURES``."""
    joint: Joint | None = None
    """Computed together with the review ranges if there are enough cases."""
    cases: int = Field(default=0, ge=0)
    """How many cases the review ranges were computed from; 0 if they were written by hand."""

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
        _check_measures_exist(measures)
        return measures
