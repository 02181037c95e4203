"""Reading a pickled checkpoint in a process of its own: only tensors and plain facts come out."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import InferenceError, ModelInvalid
from inference.importing import unpickler
from inference.own_process import run_module

if TYPE_CHECKING:
    from torch import Tensor

UNPICKLE_SECONDS = 900


def unpickle(file: Path, scratch: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and plain facts of a pickled checkpoint, read in a process of its own.

    Args:
        file: the checkpoint, which must be trusted, since unpickling can run its code.
        scratch: folder for the process's output; the tensors may stay mapped from there.

    Raises:
        InferenceError: reading took too long.
        ModelInvalid: the file is no checkpoint.
    """
    from safetensors.torch import load_file

    arguments = str(file.resolve()), str(scratch)
    try:
        failure = run_module("inference.importing.unpickler", *arguments, seconds=UNPICKLE_SECONDS)
    except subprocess.TimeoutExpired as error:
        raise InferenceError(f"{file} was not read within {UNPICKLE_SECONDS} seconds.") from error
    if failure is not None:
        raise ModelInvalid(f"{file} cannot be read as a checkpoint: {failure}")
    tensors = load_file(scratch / unpickler.TENSORS)
    facts = json.loads((scratch / unpickler.FACTS).read_text())
    return tensors, facts


def checked_names(names: Sequence[str] | None, outputs: int) -> list[str]:
    """The names of a network's outputs.

    Raises:
        ModelInvalid: the number of names is not the number of outputs.
    """
    found = list(names or ())
    if len(found) != outputs:
        raise ModelInvalid(
            f"the checkpoint has {outputs} outputs and {len(found)} labels: name them all with --labels FILE."
        )
    return found


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        ModelInvalid: the file cannot be read, or holds no JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{path} cannot be read: {type(error).__name__}.") from error
    if not isinstance(content, dict):
        raise ModelInvalid(f"{path} is no JSON object.")
    return content
