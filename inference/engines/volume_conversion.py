"""The conversion of a volume engine's network for OpenVINO, with the engine's windows as input.

Usage: python -m inference.engines.volume_conversion FOLDER-OF-MODEL TARGET.xml
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from inference.engines import engine_class
from inference.running import openvino_backend  # keeps OpenVINO from telling its makers  # noqa: F401
from inference.store import ModelStore

if TYPE_CHECKING:
    from inference.engines.windowed import WindowedEngine


class _Results(nn.Module):
    """A network that gives what the engine needs of its output."""

    def __init__(self, network: nn.Module, kind: type[WindowedEngine]) -> None:
        super().__init__()
        self.network = network
        self.kind = kind

    def forward(self, windows: Tensor) -> tuple[Tensor, ...]:
        return self.kind.results_of(self.network(windows))


def convert(folder: Path, target: Path) -> None:
    """Convert the model in a folder to ``target``."""
    warnings.simplefilter("ignore")
    import openvino

    stored = ModelStore(folder.parent).get(f"{folder}{os.sep}")
    kind = cast("type[WindowedEngine]", engine_class(stored.card.kind))
    network = _Results(kind.build(stored), kind).eval()
    with torch.no_grad():
        model = openvino.convert_model(
            network,
            example_input=torch.zeros(1, 1, *kind.window_shape(stored.card)),
            input=[-1, 1, -1, -1, -1],
        )
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
