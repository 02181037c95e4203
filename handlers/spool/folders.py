"""Folders that survive a power cut: a name is on disk only after the folder that contains it has been synced."""

from __future__ import annotations

import os
from pathlib import Path


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_durable(root: Path, *folders: Path) -> None:
    """Create ``root`` and the folders below it, and make their names durable.

    Folders that exist already are synced too: their creator may have died before syncing them.
    """
    holding = {folder.parent for folder in folders}
    changed = {
        ancestor
        for folder in holding
        for ancestor in (folder, *folder.parents)
        if ancestor.is_relative_to(root)
    }
    changed |= {folder.parent for folder in (root, *root.parents) if not folder.exists()}
    for folder in (root, *folders):
        folder.mkdir(parents=True, exist_ok=True)
    for folder in sorted(changed):
        sync_folder(folder)
