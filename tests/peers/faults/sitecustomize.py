"""Loaded by Python at the start of every process of a node under test: puts the switches of steps.py in place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "OVERREAD_FAULTS" in os.environ:
    role = None
    if "--role" in sys.orig_argv:
        role = sys.orig_argv[sys.orig_argv.index("--role") + 1]
    elif any("node.line.stage_child" in argument for argument in sys.orig_argv):
        role = "stage"  # the process that stage processes are forked from
    if role is not None:
        from tests.peers.faults.steps import install

        install(Path(os.environ["OVERREAD_FAULTS"]), role)
