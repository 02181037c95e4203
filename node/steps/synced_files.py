"""Files that survive a cut of power: written under a temporary name, synced, renamed, and their folder synced."""

from __future__ import annotations

import logging
import os
import uuid
from functools import lru_cache
from pathlib import Path

from handlers.spool.folders import make_durable, sync_folder

log = logging.getLogger("overread.synced_files")


def write_synced(root: Path, relative: Path, data: bytes) -> None:
    """Write a file below ``root`` under a temporary name, sync it, rename it and sync its folder.

    The bytes are synced before the name, since a rerun may replace a file that a row already speaks of.
    """
    path = root / relative
    if not path.parent.exists():
        _make_durable.cache_clear()
    for folder in reversed(relative.parents[:-1]):
        _make_durable(root / folder)
    temporary = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@lru_cache(maxsize=1024)
def _make_durable(folder: Path) -> None:
    """Once for each folder and process: another process that made it may not have synced its name."""
    make_durable(folder.parent, folder)


def clear_up(results: Path) -> None:
    """Remove the unfinished files of workers that died: no row knows them. Only while no worker runs."""
    unfinished = list(results.rglob(".*.part"))
    for path in unfinished:
        path.unlink()
    if unfinished:
        log.warning("results_cleared_up partial_removed=%d", len(unfinished))
