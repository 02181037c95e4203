"""The 2.5D engine: stacks of three neighbouring slices through any image network, then an aggregator."""

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
    """Backbone, aggregator and preprocessing come from the card; CT and MR."""

    kind: ClassVar[str] = "hybrid_volume"
    modalities: ClassVar[tuple[str, ...]] = ("CT", "MR")

    @classmethod
    def build(cls, stored: StoredModel) -> HybridNetwork:
        """Backbone and aggregator."""
        from inference.networks.weights import load_hybrid  # loads torch

        return load_hybrid(stored)

    @property
    def hybrid(self) -> HybridNetwork:
        return cast("HybridNetwork", self.network)

    @property
    def image_network(self) -> Network:
        return self.hybrid.backbone

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """Slices with the one before and the one behind as channels; the last one repeats at the ends."""
        from inference.networks.aggregation import neighbouring_slices  # loads torch

        return neighbouring_slices(slices, chosen)

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """Logits of all stacks, then of the volume by the aggregator."""
        import torch

        from inference.running.batches import in_batches

        def described(chosen: Sequence[int]) -> tuple[Tensor, Tensor]:
            batch = torch.from_numpy(self.stacks(slices, chosen)).to(self.placement.device)
            with self.placement.autocast():
                _, logits, features = self.hybrid.describe(batch)
            return logits.float(), features.float()

        with torch.inference_mode():
            parts = [part for _, part in in_batches(range(len(slices)), self.slices_at_once, described)]
            logits, features = (torch.cat(part) for part in zip(*parts, strict=True))
            volume = self.hybrid.aggregate(logits, features)
        return Decision(volume=volume.double().cpu().numpy(), slices=logits.double().cpu().numpy())
