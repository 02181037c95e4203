"""Structures of the brain on MR by nnU-Net: the nnunet engine, restricted to the head."""

from __future__ import annotations

from typing import ClassVar

from inference.engines.nnunet import NnunetEngine


class BrainMriEngine(NnunetEngine):
    """MR of the head, or CT if the model's plans are for CT."""

    kind: ClassVar[str] = "brain_mri"
    body_parts: ClassVar[str] = "HEAD|BRAIN|SKULL|HEADNECK"
