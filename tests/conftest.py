"""Which tests are for which speed, where they lie, and in which order they run.

Speeds choose by markers (``make quick``, ``make test``, ``make test-all``). A test of a folder of whole nodes gets
its marker here, and so does one that asks for a fixture that starts a peer. Tests of whole nodes come first, since
the longest of them must not be what all wait for. Examples of hypothesis have no deadline: one that syncs takes as
long as the disk does.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

HERE = Path(__file__).parent
NODES = HERE / "system"
PEERS = frozenset({"postgres", "receiver", "start_receiver"})
"""Fixtures that start a server; a database of Postgres is one by its parameter."""
MEMORY = Path("/dev/shm")
MEMORY_BYTES = 8 << 30
"""Less room than this and the folders of tests stay on the disk."""
PLACE = "PYTEST_DEBUG_TEMPROOT"
"""pytest's own variable for where it makes them."""


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Folders of tests lie in memory, where syncs cost nothing, unless somebody says where they lie."""
    if PLACE not in os.environ and MEMORY.is_dir() and shutil.disk_usage(MEMORY).free >= MEMORY_BYTES:
        os.environ[PLACE] = str(MEMORY)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark them before ``-m`` chooses; pytest-xdist gives files out in this order with ``--no-loadscope-reorder``."""
    for item in items:
        if item.path.is_relative_to(NODES):
            item.add_marker("node")
        elif asks_for_a_peer(item):
            item.add_marker("peer")
    items.sort(key=lambda item: not item.path.is_relative_to(NODES))


def asks_for_a_peer(item: pytest.Item) -> bool:
    """Whether one of its fixtures starts a server."""
    parameters = getattr(getattr(item, "callspec", None), "params", {}).values()
    return not PEERS.isdisjoint(getattr(item, "fixturenames", ())) or any(
        isinstance(value, str) and value == "postgres" for value in parameters
    )
