"""Loaded by Python at the start of every process of a node under test: puts the switches of steps.py in place."""

from __future__ import annotations

import os
import sys
from pathlib import Path

if "OVERREAD_FAULTS" in os.environ and "--role" in sys.orig_argv:
    from tests.peers.faults.steps import install

    install(Path(os.environ["OVERREAD_FAULTS"]), sys.orig_argv[sys.orig_argv.index("--role") + 1])
