"""The 2.5D engine: an image network sees stacks of three neighbouring slices, and an aggregator combines them.

The strategy is that of "Models and Inference Strategy", sections 3.2 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.engines.slice_wise import Decision, SliceWiseEngine

if TYPE_CHECKING:
    from torch import Tensor

    from inference.networks.hybrid import HybridNetwork
    from inference.networks.network import Network
    from inference.store import StoredModel


class HybridVolumeEngine(SliceWiseEngine):
    """CT and MR; backbone, aggregator and preprocessing come from the card."""

    kind: ClassVar[str] = "hybrid_volume"
    modalities: ClassVar[tuple[str, ...]] = ("CT", "MR")

    @classmethod
    def build(cls, stored: StoredModel) -> HybridNetwork:
        """The backbone and the aggregator of the card."""
        from inference.networks.weights import load_hybrid  # loads torch

        return load_hybrid(stored)

    @property
    def hybrid(self) -> HybridNetwork:
        """The network by its own type."""
        return cast("HybridNetwork", self.network)

    @property
    def image_network(self) -> Network:
        """The backbone, which sees one stack of slices."""
        return self.hybrid.backbone

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """Each chosen slice with its two neighbours as channels, see :func:`neighbouring_slices`."""
        from inference.networks.aggregation import neighbouring_slices  # loads torch

        return neighbouring_slices(slices, chosen)

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """The logits of all stacks, and those of the volume by the aggregator."""
        import torch

        from inference.running.batches import in_batches

        def describe_stacks(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
            batch = torch.from_numpy(self.stacks(slices, chosen)).to(self.placement.device)
            with self.placement.autocast():
                _, logits, features = self.hybrid.describe(batch)
            return logits.float(), features.float()

        with torch.inference_mode():
            parts = [part for _, part in in_batches(range(len(slices)), self.slices_at_once, describe_stacks)]
            logits, features = (torch.cat(part) for part in zip(*parts, strict=True))
            volume = self.hybrid.aggregate(logits, features)
        return Decision(volume=volume.double().cpu().numpy(), slices=logits.double().cpu().numpy())
