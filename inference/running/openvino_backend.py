"""OpenVINO as the CPU's backend: the network compiled for this processor, with logits and features in one pass.

A network is converted once, by a separate process, because a worker would keep the memory that tracing takes.
The converted form is in the model store's cache, named by the digest of the weights.

Usage of the converter: python -m inference.running.openvino_backend FOLDER-OF-MODEL TARGET.xml
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from inference.errors import InferenceError
from inference.own_process import run_module

if TYPE_CHECKING:
    from inference.store import StoredModel

CONVERT_SECONDS = 600

# OpenVINO tells its makers, by way of Google Analytics, that it is imported and what it converts. Without this
# library it does not.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


class CompiledNetwork:
    """A network compiled for this CPU, for batches of any size; not thread-safe.

    It computes with ``threads`` threads, which the system may move between cores.
    """

    def __init__(self, model: Path, *, threads: int, bf16: bool = False) -> None:
        import openvino

        core = openvino.Core()
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            # A thread that is pinned waits for its core even if another one is free.
            "ENABLE_CPU_PINNING": False,
        }
        self._request: Any = core.compile_model(model, "CPU", properties).create_infer_request()

    def __call__(self, images: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The logits and features of a batch, as arrays that later calls do not change."""
        self._request.infer([np.ascontiguousarray(images)])
        logits, features = (self._request.get_output_tensor(index).data.copy() for index in (0, 1))
        return logits, features


def converted_model(stored: StoredModel, converter: str = "inference.running.openvino_backend") -> Path:
    """The path of a stored model's converted form, which is made now if the cache does not have it.

    Args:
        stored: the model.
        converter: the module that converts it, run with the model's folder and the target.

    Raises:
        InferenceError: the network cannot be converted.
    """
    import openvino

    version = openvino.__version__.split("-")[0]
    target = stored.cache / f"openvino-{version}-{stored.card.sha256}.xml"
    if target.exists():
        return target
    stored.cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert-", dir=stored.cache) as scratch:
        draft = Path(scratch) / target.name
        arguments = str(stored.weights.parent), str(draft)
        try:
            failure = run_module(converter, *arguments, seconds=CONVERT_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise InferenceError(
                f"{stored.card.name!r} was not converted in time; use backend torch."
            ) from error
        if failure is not None:
            raise InferenceError(
                f"model {stored.card.name!r} cannot be converted for OpenVINO ({failure}); use backend torch."
            )
        # The description comes last: if it is there, the weights beside it are complete.
        os.replace(draft.with_suffix(".bin"), target.with_suffix(".bin"))
        os.replace(draft, target)
    return target


def convert(folder: Path, target: Path) -> None:
    """Convert the model in a folder to ``target``; runs in a separate process."""
    import warnings

    warnings.simplefilter("ignore")
    import openvino
    import torch
    from safetensors.torch import load_file
    from torch import Tensor, nn

    from inference.networks import build_network
    from inference.store import ModelStore

    class LogitsAndFeatures(nn.Module):
        """A network that returns its logits and its features."""

        def __init__(self, network: Any) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
            features = self.network.feature_maps(images)
            return self.network.classify(features), features

    torch.backends.mha.set_fastpath_enabled(False)
    stored = ModelStore(folder.parent).get(f"{folder}{os.sep}")
    card = stored.card
    network = build_network(card)
    network.load_weights(load_file(stored.weights))
    shape = (card.input_channels, card.input_size, card.input_size)
    with torch.no_grad():
        model = openvino.convert_model(
            LogitsAndFeatures(network.eval()),
            example_input=torch.zeros(2, *shape),
            input=[-1, card.input_channels, -1, -1],
        )
    openvino.save_model(model, target, compress_to_fp16=False)


if __name__ == "__main__":
    convert(Path(sys.argv[1]), Path(sys.argv[2]))
