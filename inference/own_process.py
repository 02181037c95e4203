"""Modules run as separate processes, for work that may exhaust memory, hang or execute foreign code."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path


def run_module(module: str, *arguments: str, seconds: float) -> str | None:
    """Run a module of this installation in a new process and wait until it ends.

    Returns:
        The last line that it wrote to standard error if it failed, else None.

    Raises:
        subprocess.TimeoutExpired: it ran longer than ``seconds`` and was killed.
    """
    ended = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(__file__).resolve().parents[1],
        capture_output=True,
        text=True,
        timeout=seconds,
    )
    if ended.returncode == 0:
        return None
    return (ended.stderr.strip().splitlines() or [f"its process ended with {ended.returncode}"])[-1]


def limit_this_process(*, memory_bytes: int, processor_seconds: int) -> None:
    """Limit the address space and processor time of the calling process, and forbid core files."""
    for kind, limit in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CPU, processor_seconds),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(kind, (limit, limit))
