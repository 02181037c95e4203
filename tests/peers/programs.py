"""Programs of the system that tests need: found on the system's path, never in the Python environment."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

SYSTEM_PATH = "/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin:/bin:/sbin"


def program(name: str) -> Path:
    """The system's program of that name; skips the test where it is not installed."""
    found = shutil.which(name, path=SYSTEM_PATH)
    if found is None:
        pytest.skip(f"the system has no {name}: tests/install-peers installs it")
    return Path(found)
