"""What processes and commands load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def last_line_printed(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


def test_hidden_libraries_are_not_installed_for_who_asks() -> None:
    script = (
        "import sys; from node.processes.libraries import PIXEL_LIBRARIES, hide_pixel_libraries;"
        "hide_pixel_libraries();"
        "import pydicom.config; print(sorted(set(PIXEL_LIBRARIES) & sys.modules.keys()))"
    )
    assert last_line_printed(script) == "[]"


def test_command_line_loads_only_the_command_that_is_called() -> None:
    script = (
        "import atexit, sys, node.cli; sys.argv = ['overread', 'queue', '--help'];"
        "rooms = {'highdicom', 'pynetdicom', 'torch', 'node.processes.supervisor'};"
        "atexit.register(lambda: print(sorted(rooms & sys.modules.keys())));"
        "node.cli.main()"
    )
    assert last_line_printed(script) == "[]"
