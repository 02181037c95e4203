"""Pneumonia on chest radiographs: EfficientNet-B0 with the classes NORMAL and PNEUMONIA.

The picture is resized as a whole, as the network was trained; a result whose most probable class is below
70 % advises a review.
"""

from __future__ import annotations

from typing import ClassVar

from inference.engines.chest_xray import ChestXrayEngine


class PneumoniaEngine(ChestXrayEngine):
    """Frontal radiographs of the chest, normal or pneumonia."""

    kind: ClassVar[str] = "pneumonia"
