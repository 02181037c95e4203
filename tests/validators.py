"""The validators that results have to pass: dicom3tools' dciodvfy and PixelMed's DicomSRValidator."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

DCIODVFY = Path("/usr/bin/dciodvfy")
SR_VALIDATOR = Path("/usr/bin/DicomSRValidator")

_JAVA_OPTIONS = " ".join(
    (
        *(f"-Djdk.xml.{limit}=0" for limit in ("xpathExprOpLimit", "xpathTotalOpLimit", "xpathExprGrpLimit")),
        *("-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"),
    )
)
"""Lifts the limits on XPath expressions, which the validator's own style sheets exceed; a compiler and a collector for
short runs halve its time."""

_TIMEOUT_SECONDS = 120.0

_FALSE_COMPLAINTS = (
    # CID 100 is extensible, and the validator's copy of it is from 2022.
    re.compile(r"Procedure reported.*not found in context group 100", re.IGNORECASE),
    # Rows 5 and 7 of TID 1410, asked of TID 1501 groups that stand beside groups with a region.
    re.compile(r"Template 1410.*\[Row [57]\].*Missing conditional content item", re.IGNORECASE),
)


def dciodvfy_errors(path: Path) -> list[str]:
    """Lines that dciodvfy prints as errors; none for a conforming object."""
    _, lines = _run(DCIODVFY, path)
    return [line for line in lines if line.startswith(("Error", "Can't", "terminate"))]


def sr_validator_errors(path: Path) -> list[str]:
    """Lines that DicomSRValidator prints as errors, without its two false complaints."""
    status, lines = _run(SR_VALIDATOR, path)
    errors = [line for line in lines if line.startswith("Error") and not _is_false(line)]
    if "Root Template Validation Complete" not in lines and not errors:
        errors = [f"DicomSRValidator ended with {status}, unfinished: {' / '.join(lines[-3:])}"]
    return errors


def _run(program: Path, path: Path) -> tuple[int, list[str]]:
    """Exit status and all lines that a validator prints about a file."""
    result = subprocess.run(
        [program, path],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_SECONDS,
        check=False,
        env={**os.environ, "JAVA_TOOL_OPTIONS": _JAVA_OPTIONS},
    )
    return result.returncode, (result.stderr + result.stdout).splitlines()


def _is_false(line: str) -> bool:
    return any(pattern.search(line) for pattern in _FALSE_COMPLAINTS)
