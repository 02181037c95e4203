"""Folders that survive a cut of power: a name is on the disk only once the folder that holds it was synced."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(root: Path, *folders: Path) -> None:
    """Create ``root`` and folders below it, and sync their names.

    The names of folders that are there already are synced too, since whoever made them may have died before.
    """
    holding = {folder.parent for folder in folders}
    changed = {
        above for folder in holding for above in (folder, *folder.parents) if above.is_relative_to(root)
    }
    changed |= {folder.parent for folder in (root, *root.parents) if not folder.exists()}
    for folder in (root, *folders):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in sorted(changed):
        sync_folder(folder)
