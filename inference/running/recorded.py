"""A network's passes on CUDA as recorded graphs: one launch for a small batch instead of hundreds of kernels.

References
----------
PyTorch documentation, CUDA semantics, "CUDA Graphs".
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
"""Larger batches keep the device busy while their kernels are launched."""
WARM_PASSES = 3
"""Before recording, so that libraries have chosen their algorithms and taken their memory."""

Pass = Callable[[Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """A graph with the tensors that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    images: Tensor
    results: tuple[Tensor, Tensor]


class RecordedPasses:
    """Runs a network's passes by a graph for each shape of batch, recorded when the shape first comes.

    Results are copies, which stay as they are when the graph runs again. Where one cannot be recorded, since the
    network waits for the device or its memory is short, all run as they are from then on.
    """

    def __init__(self) -> None:
        self._recordings: dict[torch.Size, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._possible = True

    def __call__(self, run: Pass, images: Tensor) -> tuple[Tensor, Tensor]:
        """What ``run`` makes of images on the device; ``run`` has to be the same each time."""
        if not self._possible or len(images) > LARGEST_BATCH:
            return run(images)
        recording = self._recordings.get(images.shape) or self._recorded(run, images)
        if recording is None:
            return run(images)
        recording.images.copy_(images)
        recording.graph.replay()
        first, second = recording.results
        return first.clone(), second.clone()

    def _recorded(self, run: Pass, images: Tensor) -> Recording | None:
        stream = torch.cuda.current_stream(images.device)
        try:
            self._recordings[images.shape] = _record(run, images, self._pool)
            return self._recordings[images.shape]
        except RuntimeError as error:
            log.warning("passes_not_recorded error=%s", type(error).__name__)
        # A recording that breaks off leaves its own stream as the current one.
        torch.cuda.set_stream(stream)
        self._recordings.clear()
        self._possible = False
        return None


def _record(run: Pass, images: Tensor, pool: Any) -> Recording:
    kept = images.clone()
    # On a stream of its own, as recording demands of what runs before it.
    stream = torch.cuda.Stream(images.device)
    stream.wait_stream(torch.cuda.current_stream(images.device))
    with torch.cuda.stream(stream):
        for _ in range(WARM_PASSES):
            run(kept)
    torch.cuda.current_stream(images.device).wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with (
        torch.cuda.device(images.device),
        torch.cuda.graph(graph, pool=pool, capture_error_mode="thread_local"),
    ):
        results = run(kept)
    return Recording(graph=graph, images=kept, results=results)
