"""Pneumonia on chest radiographs: EfficientNet-B0 with the classes NORMAL and PNEUMONIA.

The picture is resized as a whole, as in training. A review is advised if the most probable class is below 70 %
("MediFlow AI - PyTorch X-Ray Analysis Model").
"""

from __future__ import annotations

from typing import ClassVar

from inference.engines.chest_xray import ChestXrayEngine


class PneumoniaEngine(ChestXrayEngine):
    """Frontal radiographs of the chest, classified as normal or pneumonia."""

    kind: ClassVar[str] = "pneumonia"
