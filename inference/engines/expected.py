"""A model's expectations of its inputs, learned from cases like those that it was trained on."""

from __future__ import annotations

from collections.abc import Iterable

from inference.checking.expectations import with_learned_ranges
from inference.engine import Case, Engine
from inference.engines.image import ImageCase, ImageEngine
from inference.engines.volume import VolumeEngine
from inference.engines.volume_case import VolumeCase
from inference.errors import EngineMisconfigured
from inference.store.expects import Expectations


def checks_inputs(engine: Engine) -> bool:
    """Whether an engine compares its inputs with what its model expects."""
    return isinstance(engine, (ImageEngine, VolumeEngine))


def learned_expectations(engine: Engine, cases: Iterable[Case]) -> Expectations:
    """The expectations of an engine's model, with ranges computed from the figures of prepared cases.

    Raises:
        EngineMisconfigured: engines of this kind do not check their inputs.
        ValueError: there are no cases.
    """
    if not isinstance(engine, (ImageEngine, VolumeEngine)):
        raise EngineMisconfigured(f"engines of kind {engine.kind} do not check their inputs.")
    figures = [case.check.figures for case in cases if isinstance(case, (ImageCase, VolumeCase))]
    return with_learned_ranges(engine.expected or Expectations(), figures)
