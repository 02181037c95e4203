"""What lies in a node's spool, beside the empty files that wait for a dataset."""

from __future__ import annotations

from pathlib import Path


def filled(spool: Path) -> list[Path]:
    """The files that hold something, whole or not."""
    return [path for path in spool.rglob("*") if path.is_file() and path.stat().st_size]
