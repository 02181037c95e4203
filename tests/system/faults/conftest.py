"""An engine that fails on purpose, installed as a plug-in: the Study ID of an image says how."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.system.conftest import REAL_DATA as REAL_DATA

pytest.register_assert_rewrite("tests.system.faults.witness")

EXAMPLE = Path(__file__).resolve().parents[3] / "docs" / "add-an-engine.md"
FAULTY = """

import os
import threading

import pydicom


class FaultyEngine(MeanBrightnessEngine):
    kind: ClassVar[str] = "faulty"

    @classmethod
    def load(cls, settings, store):
        if settings.model == "broken":
            raise ValueError("Canary^Patient in a message of a loader")
        return super().load(settings, store)

    def infer(self, cases):
        words = [pydicom.dcmread(case.source.path, stop_before_pixels=True).StudyID for case in cases]
        if "crash" in words:
            os.abort()
        if "lost" in words:
            self.device = "cuda:99 that answers no more"
        if self.device != "cpu":
            raise RuntimeError("CUDA error: unspecified launch failure")
        if "hang" in words:
            threading.Event().wait()
        if "memory" in words or ("large" in words and len(cases) > 1):
            raise MemoryError
        if "error" in words:
            raise RuntimeError("Canary^Patient in a message of native code")
        return super().infer(cases)
"""
CONFIGURATION = """
[[engine]]
name = "faulty"
kind = "faulty"
model = "none"
deadline_seconds = 60

[[route]]
name = "all"
match = { Modality = ["CR"] }
engines = ["faulty"]
destinations = []
"""


@pytest.fixture
def plug_in(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH with the engine kind ``faulty``."""
    return install_faulty(tmp_path / "plugins")


def install_faulty(folder: Path) -> Path:
    """Fill a folder for PYTHONPATH with a distribution that registers the engine kind ``faulty``."""
    example = re.search(r"```python\n(.*?)```", EXAMPLE.read_text(), re.S)
    assert example is not None
    metadata = folder / "faulty-1.0.dist-info"
    metadata.mkdir(parents=True)
    (folder / "faulty.py").write_text(example[1] + FAULTY)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: faulty\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[overread.engines]\nfaulty = faulty:FaultyEngine\n")
    return folder
