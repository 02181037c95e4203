"""A module of this installation run as a process of its own, for what may take all memory, hang or run foreign code."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path


def failure_of(module: str, *arguments: str, seconds: float) -> str | None:
    """Run a module until it ends; its last words where it failed, None where it did not.

    Raises:
        subprocess.TimeoutExpired: it did not end within ``seconds`` and was killed.
    """
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if done.returncode == 0:
        return None
    return (done.stderr.strip().splitlines() or [f"its process ended with {done.returncode}"])[-1]


def limit_this_process(*, memory_bytes: int, processor_seconds: int) -> None:
    """Bound the address space and the processor time of the calling process, and let it leave no core file."""
    for kind, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (most, most))
