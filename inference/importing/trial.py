"""A process of its own that loads a model once as a trial, so that the store takes no model that cannot be loaded.

Loading builds the network that a card describes, and runs the configuration of a bundle. So the process has limits
of memory and time.

Usage: python -m inference.importing.trial FOLDER KIND
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from inference.errors import InferenceError
from inference.own_process import limit_this_process, run_module
from inference.settings import EngineSettings

MEMORY_BYTES = 16 << 30
SECONDS = 900


def refusal_of(folder: Path, kind: str) -> str | None:
    """Why an engine of this kind cannot load the model in a folder, as a sentence; None if it can."""
    try:
        return run_module("inference.importing.trial", str(folder.resolve()), kind, seconds=SECONDS)
    except subprocess.TimeoutExpired:
        return f"it was not loaded within {SECONDS} seconds."


def main(folder: Path, kind: str) -> None:
    """Load the model in a folder on the CPU.

    Raises:
        SystemExit: the model cannot be loaded; the message is the reason.
    """
    limit_this_process(memory_bytes=MEMORY_BYTES, processor_seconds=SECONDS)
    from inference.engines import engine_class
    from inference.store.store import ModelStore

    settings = EngineSettings(name="trial", kind=kind, model=str(folder), device="cpu", backend="torch")
    try:
        engine_class(kind).load(settings, ModelStore(folder.parent))
    except InferenceError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
