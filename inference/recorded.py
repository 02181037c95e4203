"""A network's passes on CUDA as recorded graphs: one launch for a small batch instead of hundreds of kernels.

References
----------
PyTorch documentation, CUDA semantics, "CUDA Graphs".
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

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
    """Runs ``run`` by a graph for each shape of batch, recorded when the shape first comes.

    Results are copies, which stay as they are when the graph runs again. A pass that cannot be recorded, since
    it waits for the device, runs as it is.
    """

    def __init__(self, run: Pass) -> None:
        self._run = run
        self._recordings: dict[torch.Size, Recording] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._possible = True

    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if not self._possible or len(images) > LARGEST_BATCH:
            return self._run(images)
        if images.shape not in self._recordings:
            try:
                self._recordings[images.shape] = self._record(images)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as error:
                log.warning("pass_not_recorded error=%s", type(error).__name__)
                self._possible = False
                return self._run(images)
        recording = self._recordings[images.shape]
        recording.images.copy_(images)
        recording.graph.replay()
        first, second = recording.results
        return first.clone(), second.clone()

    def _record(self, images: Tensor) -> Recording:
        kept = images.clone()
        # On a stream of its own, as recording demands of what runs before it.
        stream = torch.cuda.Stream(images.device)
        stream.wait_stream(torch.cuda.current_stream(images.device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_PASSES):
                self._run(kept)
        torch.cuda.current_stream(images.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with (
            torch.cuda.device(images.device),
            torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
        ):
            results = self._run(kept)
        return Recording(graph=graph, images=kept, results=results)
