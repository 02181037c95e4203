"""OpenVINO for networks that see windows of volumes: each core of the CPU computes windows of its own."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

Shape = tuple[int, int, int]

LARGEST_FOR_ONE_CORE = 64**3
"""Voxels of a window. The maps of larger ones take much memory, so that all cores compute one together."""


class CompiledWindows:
    """A network compiled for this CPU and for windows of one shape; not thread-safe."""

    def __init__(self, model: Path, shape: Shape, *, threads: int, bf16: bool = False) -> None:
        import openvino

        self.shape = shape
        core = openvino.Core()
        network = core.read_model(model)
        network.reshape([1, 1, *shape])
        streams = threads if prod(shape) <= LARGEST_FOR_ONE_CORE else 1
        properties = {
            "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": threads,
            # A thread that is pinned waits for its core even if another one is free.
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(network, "CPU", properties)
        self._requests: list[Any] = [compiled.create_infer_request() for _ in range(streams)]
        self._output_shapes = [tuple(output.shape)[1:] for output in compiled.outputs]

    def __call__(self, windows: Tensor) -> tuple[Tensor, ...]:
        """The outputs of windows (n, 1, slices, rows, columns), each of shape (n, ...)."""
        outputs = [np.empty((len(windows), *shape), dtype=np.float32) for shape in self._output_shapes]
        cells = windows.contiguous().numpy()
        started: list[int] = []

        def collect() -> None:
            row = started.pop(0)
            request = self._requests[row % len(self._requests)]
            request.wait()
            for index, output in enumerate(outputs):
                output[row] = request.get_output_tensor(index).data[0]

        for row in range(len(cells)):
            if len(started) == len(self._requests):
                collect()
            self._requests[row % len(self._requests)].start_async([cells[row : row + 1]])
            started.append(row)
        while started:
            collect()
        return tuple(torch.from_numpy(output) for output in outputs)
