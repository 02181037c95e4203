"""The order of the tests: those of whole nodes first, since the longest of them must not be what all wait for.

And no deadline for the examples of hypothesis: one that syncs takes as long as the disk does.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

SYSTEM = Path(__file__).parent / "system"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """pytest-xdist gives files out in this order, with ``--no-loadscope-reorder``."""
    items.sort(key=lambda item: not item.path.is_relative_to(SYSTEM))
