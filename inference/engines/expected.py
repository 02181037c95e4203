"""What a model expects of its inputs, learned from cases that it was trained for."""

from __future__ import annotations

from collections.abc import Iterable

from inference.checking.expectations import with_cases
from inference.engine import Case, Engine
from inference.engines.image import ImageCase, ImageEngine
from inference.engines.volume import VolumeCase, VolumeEngine
from inference.errors import EngineMisconfigured
from inference.store.expects import Expectations


def checks_inputs(engine: Engine) -> bool:
    """Whether an engine's kind holds inputs against what its model expects."""
    return isinstance(engine, (ImageEngine, VolumeEngine))


def learned(engine: Engine, cases: Iterable[Case]) -> Expectations:
    """The expectations of an engine's model, with ranges from the figures of prepared cases.

    Raises:
        EngineMisconfigured: the engine's kind does not check what it is given.
        ValueError: there are no cases.
    """
    if not isinstance(engine, (ImageEngine, VolumeEngine)):
        raise EngineMisconfigured(f"engines of kind {engine.kind} do not check what they are given.")
    figures = [case.check.figures for case in cases if isinstance(case, (ImageCase, VolumeCase))]
    return with_cases(engine.expected or Expectations(), figures)
