"""What stage processes do: prepare the files of an input, and conclude its cases.

Engines run foreign code on foreign data, which may raise anything. Here each fault becomes the failure of one input.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic

from inference.engine import Case, Engine, StagedEngine
from inference.findings import Analysis, Refusal
from node.errors import raised_at
from node.line.work import Cause, Failure, Finish, Made, NetworkOutput, Result

log = logging.getLogger("overread.line")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Reads and prepares the files of one input."""

    files: Sequence[Path]

    def __call__(self, engine: Engine | None) -> list[Case | Refusal | Failure]:
        """The cases, in order."""
        assert engine is not None
        try:
            return list(engine.prepare(self.files))
        except OSError as error:
            log.warning("inputs_not_read engine=%s error=%s", engine.settings.name, error.strerror)
            reason = f"the inputs cannot be read: {error.strerror}"
            return [Failure(path=self.files[0], reason=reason, cause=Cause.DISK)]
        except Exception as error:
            kind = type(error).__name__
            log.error(
                "prepare_failed engine=%s error=%s place=%s", engine.settings.name, kind, raised_at(error)
            )
            reason = f"the inputs cannot be prepared ({kind})"
            return [Failure(path=self.files[0], reason=reason, cause=Cause.INPUT)]


@dataclass(frozen=True, kw_only=True)
class Conclude(Generic[Made]):
    """Makes the results of one input from what the networks say of its cases."""

    outputs: Sequence[NetworkOutput | Refusal | Failure]
    """One for each case."""
    finish: Finish[Made]

    def __call__(self, engine: Engine | None) -> Made:
        """What ``finish`` makes. Cases that are analyses already need no engine."""
        return self.finish([_result(engine, output) for output in self.outputs])


def _result(engine: Engine | None, output: NetworkOutput | Refusal | Failure) -> Result:
    if isinstance(output, (Refusal, Failure)):
        return output
    if isinstance(output.value, Analysis):
        return output.value
    assert isinstance(engine, StagedEngine)
    assert output.case is not None
    try:
        return engine.conclude(output.case, output.value)
    except Exception as error:
        kind, place = type(error).__name__, raised_at(error)
        log.error("conclusion_failed engine=%s error=%s place=%s", engine.settings.name, kind, place)
        reason = f"the engine failed on this input ({kind} at {place})"
        return Failure(path=output.case.source.path, reason=reason, cause=Cause.INPUT)


Task = Prepare | Conclude[Any]
"""One task of a stage process; called with the engine."""
