"""The validators that results have to pass: dicom3tools' dciodvfy and PixelMed's DicomSRValidator."""

from __future__ import annotations

import functools
import re
import shutil
import subprocess
from pathlib import Path

import pytest

DCIODVFY = Path("/usr/bin/dciodvfy")
PIXELMED = Path("/usr/share/java/pixelmed.jar")

_PROGRAM = Path(__file__).with_name("SrValidator.java")
_JAVA = (
    "java",
    *(f"-Djdk.xml.{limit}=0" for limit in ("xpathExprOpLimit", "xpathTotalOpLimit", "xpathExprGrpLimit")),
    *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    *("-cp", str(PIXELMED), str(_PROGRAM)),
)
"""Lifts the limits on XPath expressions, which the validator's own style sheets exceed; a compiler and a collector for
short runs halve its time."""

_FALSE_COMPLAINTS = (
    # CID 100 is extensible, and the validator's copy of it is from 2022.
    re.compile(r"Procedure reported.*not found in context group 100", re.IGNORECASE),
    # Rows 5 and 7 of TID 1410, asked of TID 1501 groups that stand beside groups with a region.
    re.compile(r"Template 1410.*\[Row [57]\].*Missing conditional content item", re.IGNORECASE),
)


def validators_missing() -> str:
    """Which validators this machine lacks, in words; empty where it has them all."""
    there = {
        "dicom3tools": DCIODVFY.exists(),
        "pixelmed-apps": PIXELMED.exists(),
        "a JDK": shutil.which("javac") is not None,
    }
    return ", ".join(name for name, found in there.items() if not found)


def require_validators() -> None:
    """Skip the test where a validator is missing."""
    if missing := validators_missing():
        pytest.skip(f"not installed: {missing}; tests/install-peers installs it")


def dciodvfy_errors(path: Path) -> list[str]:
    """Lines that dciodvfy prints as errors; none for a conforming object."""
    done = subprocess.run([DCIODVFY, path], capture_output=True, text=True, errors="replace", timeout=120)
    lines = (done.stderr + done.stdout).splitlines()
    return [line for line in lines if line.startswith(("Error", "Can't", "terminate"))]


def sr_validator_errors(path: Path) -> list[str]:
    """Lines that DicomSRValidator prints as errors, without its two false complaints."""
    lines = _sr_validator().lines(path)
    errors = [line for line in lines if line.startswith("Error") and not _is_false(line)]
    if "Root Template Validation Complete" not in lines and not errors:
        errors = [f"DicomSRValidator did not finish: {' / '.join(lines[-3:])}"]
    return errors


class _SrValidator:
    """One Java machine for all reports of a test process, whose start takes longer than a report does.

    It ends when its input does, which is when the test process is gone.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            _JAVA, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, errors="replace"
        )

    def lines(self, path: Path) -> list[str]:
        """What it says of a report."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{path}\n")
        self._process.stdin.flush()
        said: list[str] = []
        for line in self._process.stdout:
            if line == "\n":
                return said
            said.append(line.strip())
        return [*said, f"Error: the validator's process ended with {self._process.wait(60)}"]


@functools.cache
def _sr_validator() -> _SrValidator:
    return _SrValidator()


def _is_false(line: str) -> bool:
    return any(pattern.search(line) for pattern in _FALSE_COMPLAINTS)
