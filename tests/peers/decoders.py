"""Decoders that misbehave on purpose: a folder for PYTHONPATH. The Study ID of a compressed image says how."""

from __future__ import annotations

from pathlib import Path

HOOK = """
import os
import sys

import numpy
from pydicom.pixels.decoders.base import Decoder

sound = Decoder.as_array


def as_array(self, source, **options):
    word = source.get("StudyID", "")
    if word == "crash":
        os.abort()
    if word == "memory":
        kept = []
        while True:
            kept.append(numpy.empty(64_000_000, numpy.uint8))
    if word == "hang":
        while True:
            pass
    if word == "garbage":
        os.write(int(sys.argv[1]), b"garbage" * 1000)
        while True:
            pass
    if word == "lie":
        os.ftruncate(int(sys.argv[2]), 0)
        os.pwrite = lambda memory, view, place: len(view)
    if word == "exit":
        os._exit(3)
    return sound(self, source, **options)


Decoder.as_array = as_array
"""


def misbehaving_decoders(folder: Path) -> Path:
    """Write the hook; ``folder`` goes on PYTHONPATH of the processes that are to have it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sitecustomize.py").write_text(HOOK)
    return folder
