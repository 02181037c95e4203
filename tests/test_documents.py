"""Documents name files that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("db", "handlers", "inference", "node", "sr_writer", "training", "tests", "benchmarks")
BASES = ("", "inference", "tests", "tests/inference")
"""What a document's paths may start from: the modules of inference and the tests are named without their folder."""
DOCUMENTS = ("architecture", "inference", "reliability", "operating", "configuration", "add-an-engine")


@pytest.mark.parametrize("name", DOCUMENTS)
def test_files_that_a_document_names_are_there(name: str) -> None:
    text = (ROOT / "docs" / f"{name}.md").read_text()
    named = set(re.findall(r"`([\w/]+\.py)`", text)) - {"mean_brightness.py"}
    modules = {file.name for room in ROOMS for file in (ROOT / room).rglob("*.py")}
    absent = [
        path
        for path in named
        # A name alone stands for a module of the folder that the sentence is about.
        if path not in modules and not any((ROOT / base / path).exists() for base in BASES)
    ]
    assert absent == []
