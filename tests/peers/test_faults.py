"""The switches of fault tests find the processes that they are for."""

from __future__ import annotations

import pytest

from tests.peers.faults.steps import role_of


@pytest.mark.parametrize(
    ("command", "role"),
    [
        (
            ["python", "-m", "node.processes.child", "config.toml", "--role", "worker", "--number", "0"],
            "worker",
        ),
        (["python", "-m", "node.line.template", "5", "scipy"], "stage"),
        (["python", "-m", "node.cli", "serve", "-c", "config.toml"], None),
        (["python", "-P", "-m", "inference.parsing.child", "7", "8"], None),
    ],
)
def test_role_is_that_of_the_command(command: list[str], role: str | None) -> None:
    assert role_of(command) == role
