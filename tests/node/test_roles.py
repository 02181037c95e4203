"""What the processes of a node, and the commands, load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from node.roles import Role

ROOT = Path(__file__).resolve().parents[2]
MODULES = {
    Role.RECEIVER: "handlers.server, handlers.services, handlers.audit",
    Role.COURIER: "node.courier",
    Role.WEB: "node.web",
}
"""What ``node.serving`` imports for a role."""


def last_line_printed(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout, done.stderr
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("role", [role for role in Role if not role.reads_pixels])
def test_process_that_reads_no_pixels_loads_no_decoder(role: Role) -> None:
    script = (
        "import sys; from node.roles import PIXEL_LIBRARIES, hide_pixel_libraries; hide_pixel_libraries();"
        f"import node.config, node.serving, {MODULES[role]};"
        "print(sorted(set(PIXEL_LIBRARIES) & sys.modules.keys()))"
    )
    assert last_line_printed(script) == "[]"


def test_command_line_loads_only_the_command_that_is_called() -> None:
    script = (
        "import atexit, sys, node.cli; sys.argv = ['overread', 'queue', '--help'];"
        "rooms = {'highdicom', 'pynetdicom', 'torch', 'node.supervisor'};"
        "atexit.register(lambda: print(sorted(rooms & sys.modules.keys())));"
        "node.cli.main()"
    )
    assert last_line_printed(script) == "[]"
