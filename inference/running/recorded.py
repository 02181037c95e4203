"""A network's forward passes as recorded CUDA graphs: one launch for a small batch instead of hundreds of kernels.

References: PyTorch documentation, CUDA semantics, "CUDA Graphs".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

log = logging.getLogger("overread.inference")

LARGEST_BATCH = 8
"""Larger batches are not recorded: they keep the device busy while their kernels are launched."""
WARM_UP_PASSES = 3
"""Passes before recording, in which libraries choose their algorithms and allocate their memory."""

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A recorded graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    results: tuple[Tensor, Tensor]


class RecordedPasses:
    """Runs a network's passes as graphs, one for each shape of batch, recorded when the shape first occurs.

    If a pass cannot be recorded, because the network waits for the device or memory is short, no pass is recorded
    from then on.
    """

    def __init__(self) -> None:
        self._recordings: dict[torch.Size, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._can_record = True

    def __call__(self, run: Pass, images: Tensor) -> tuple[Tensor, Tensor]:
        """The result of ``run`` for images on the device, as copies that later passes do not change.

        ``run`` must be the same function in every call.
        """
        if not self._can_record or len(images) > LARGEST_BATCH:
            return run(images)
        recording = self._recordings.get(images.shape) or self._new_recording(run, images)
        if recording is None:
            return run(images)
        recording.images.copy_(images)
        recording.graph.replay()
        first, second = recording.results
        return first.clone(), second.clone()

    def _new_recording(self, run: Pass, images: Tensor) -> Recording | None:
        stream = torch.cuda.current_stream(images.device)
        try:
            self._recordings[images.shape] = _record(run, images, self._pool)
            return self._recordings[images.shape]
        except RuntimeError as error:
            log.warning("passes_not_recorded error=%s", type(error).__name__)
        # A recording that fails leaves its own stream as the current one.
        torch.cuda.set_stream(stream)
        self._recordings.clear()
        self._can_record = False
        return None


def _record(run: Pass, images: Tensor, pool: Any) -> Recording:
    input_images = images.clone()
    # The passes before a recording must run on another stream than the current one.
    stream = torch.cuda.Stream(images.device)
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_UP_PASSES):
            run(input_images)
    torch.cuda.current_stream(images.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.device(images.device),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        results = run(input_images)
    return Recording(graph=graph, images=input_images, results=results)
