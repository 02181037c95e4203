"""Loaded by Python at the start of every process of a node under test: puts the switches of steps.py in place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "OVERREAD_FAULTS" in os.environ:
    from tests.peers.faults.steps import install, role_of

    role = role_of(sys.orig_argv)
    if role is not None:
        install(Path(os.environ["OVERREAD_FAULTS"]), role)
