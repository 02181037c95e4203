"""The base of the engines whose network sees a volume by windows of one size."""

from __future__ import annotations

from copy import copy
from math import prod
from typing import TYPE_CHECKING, Any, Self

from inference.engines.volume import VolumeEngine

if TYPE_CHECKING:
    from torch import Tensor

    from inference.running.openvino_windows import CompiledWindows
    from inference.store import ModelCard, StoredModel


WINDOWS_FOR_A_CORE = 4
"""Of a CPU, in one pass: cores wait for the last one of a pass, so that few would leave them idle."""
MOST_WINDOWS = 64
"""In one pass; more would not be faster."""


class WindowedEngine(VolumeEngine):
    """An engine whose network can be compiled by OpenVINO for its windows.

    A kind names openvino in ``backends`` if the logits are then those of torch to 1e-4 (docs/decisions/0009).
    """

    compiled: CompiledWindows | None = None
    """The network for windows of :meth:`window_shape`, on backend openvino; other shapes run by torch."""

    @classmethod
    def window_shape(cls, card: ModelCard) -> tuple[int, int, int]:
        """Slices, rows and columns of the windows that a card's network was trained with."""
        return (card.input_size,) * 3

    @classmethod
    def results_of(cls, output: Any) -> tuple[Tensor, ...]:
        """What the engine needs of the network's output; OpenVINO compiles it together with the network."""
        raise NotImplementedError

    def compile(self, stored: StoredModel) -> None:
        """Have OpenVINO compile the network for this CPU, converted first if it was not yet.

        Raises:
            InferenceError: the network cannot be converted.
        """
        import torch

        from inference.running.openvino_backend import converted_model
        from inference.running.openvino_windows import CompiledWindows

        self.compiled = CompiledWindows(
            converted_model(stored, "inference.engines.volume_conversion"),
            self.window_shape(self.card),
            threads=torch.get_num_threads(),
            bf16=self.placement.reduced,
        )

    def results(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Run one forward pass for windows of shape (n, 1, slices, rows, columns), see :meth:`results_of`."""
        if self.compiled is None or tuple(windows.shape[2:]) != self.compiled.shape:
            return self.results_of(self.forward(windows))
        return self.compiled(windows)

    def windows_at_once(self, shape: tuple[int, int, int]) -> int:
        """Windows in one pass: some for each core of a CPU, or as many as a device's free memory takes."""
        import torch

        from inference.running.batches import fitting
        from inference.running.openvino_windows import LARGEST_FOR_ONE_CORE

        if self.placement.device.type == "cpu":
            return WINDOWS_FOR_A_CORE * torch.get_num_threads() if prod(shape) <= LARGEST_FOR_ONE_CORE else 1
        window = torch.zeros(1, 1, *shape)
        return fitting(self.placement.device, lambda: self.results(window), MOST_WINDOWS)

    def exact(self) -> Self:
        """The same engine in fp32, by torch."""
        exact = super().exact()
        exact.compiled = None
        return exact

    def without_networks(self) -> Self:
        """A copy for other processes, which can be pickled: it prepares and concludes, but cannot run."""
        networkless = copy(self)
        networkless.compiled = None
        return super(WindowedEngine, networkless).without_networks()
