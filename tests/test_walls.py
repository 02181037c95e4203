"""The walls between the rooms, and that the flat packages are this distribution's own."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("db", "handlers", "inference", "node", "sr_writer")


def test_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", ROOMS)
def test_room_is_the_one_of_this_project(room: str) -> None:
    """Flat names are common: another distribution's package of that name would be found first."""
    module = importlib.import_module(room)
    assert Path(str(module.__file__)).parent == ROOT / room


def test_planning_and_receiving_load_no_torch() -> None:
    script = (
        "import sys, node.steps.planning, node.roles.ticker, node.roles.courier, handlers.acceptor.server;"
        "sys.exit('torch' in sys.modules or 'highdicom' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False).returncode == 0


def test_other_rooms_import_what_the_database_room_offers() -> None:
    offered = {f"db.{name}" for name in importlib.import_module("db").__all__}
    used = {
        node.module
        for room in (*ROOMS[1:], "training")
        for file in (ROOT / room).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "db"
    }
    assert used == offered
