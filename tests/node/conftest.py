"""A configuration with an engine and a destination, and its database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from db.database import Database
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.processes.process import make_folders
from tests.databases import migrated
from tests.peers.waiting import free_port

CONFIGURATION = """\
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "absent"
backend = "torch"

[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
"""


@pytest.fixture
def configuration(tmp_path: Path) -> Configuration:
    """A node's; its model is not there, and nobody listens on its destination's port."""
    file = tmp_path / "config.toml"
    file.write_text(CONFIGURATION.format(port=free_port()))
    configuration = load(file)
    make_folders(configuration)
    return configuration


@pytest.fixture
def database(configuration: Configuration) -> Iterator[Database]:
    """The node's database."""
    opened = migrated(configuration.data_dir / "overread.db")
    yield opened
    opened.close()
