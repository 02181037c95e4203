"""Loaded by Python at the start of each process of the node without syncing: nothing is written out early either."""

from __future__ import annotations

import os


def _nothing(_descriptor: int, _offset: int, _length: int, _advice: int) -> None:
    """In place of an advice by which the disk would start to write."""


os.posix_fadvise = _nothing
