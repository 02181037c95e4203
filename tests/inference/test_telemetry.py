"""A node tells nobody that it is used."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("openvino")
ROOT = Path(__file__).resolve().parents[2]


def test_openvino_reports_nothing_to_its_makers(tmp_path: Path) -> None:
    """Its telemetry is on unless it was switched off, and keeps an identity in the home folder."""
    script = "import sys, inference.running.openvino_backend, openvino; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env={**os.environ, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    loaded = done.stdout.split()
    assert "openvino.tools.ovc" in loaded
    assert not any(name.startswith("openvino_telemetry.") for name in loaded)
    assert list(tmp_path.iterdir()) == []
