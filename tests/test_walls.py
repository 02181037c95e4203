"""The walls between the rooms, and that the flat packages are this distribution's own."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.public import ROOMS, ROOT, private_modules, public_modules, used_names

PINNED = Path(__file__).with_name("public_names.txt")


def test_rooms_import_only_what_they_may() -> None:
    done = subprocess.run(
        [Path(sys.executable).with_name("lint-imports")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("room", [*ROOMS, "node", "training"])
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


def test_what_rooms_take_of_each_other_is_what_was_agreed() -> None:
    """``public_names.txt`` is the surface of every room: a change there is a change of a contract."""
    used = {module: names for room in ROOMS for module, names in used_names(room).items()}
    lines = [f"{module}: {', '.join(names)}" for module, names in used.items()]
    assert lines == PINNED.read_text().splitlines()


def test_contracts_forbid_all_that_is_not_public() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    for room in ROOMS:
        (contract,) = [c for c in contracts if c["name"] == f"other rooms import what {room} calls public"]
        apart = {"inference.parsing"}  # has a contract of its own
        assert {*contract["protected_modules"], *apart} == {*private_modules(room), *apart}
        for module in public_modules(room):
            importlib.import_module(module)
