"""PNG and JPEG files, which are images without a header."""

from __future__ import annotations

from pathlib import Path

SUFFIXES = frozenset({".png", ".jpg", ".jpeg"})


def is_plain_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG, by its suffix."""
    return path.suffix.lower() in SUFFIXES
