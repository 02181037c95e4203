"""Brain metastases on head CT: each slice gets a logit, and the largest one is the patient's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
from numpy.typing import NDArray

from inference.checking.expectations import HEAD_CT
from inference.engines.slice_wise import Decision, SliceWiseEngine

if TYPE_CHECKING:
    from torch import Tensor

    from inference.networks.network import Network
    from inference.store import StoredModel
    from inference.store.expects import Expectations


class BrainMetastasisEngine(SliceWiseEngine):
    """Window 40 / 80, z-score, 256 x 256 by the card; the card's ``high`` threshold decides."""

    kind: ClassVar[str] = "brain_metastasis"
    body_parts: ClassVar[str] = "HEAD|BRAIN|SKULL|HEADNECK"
    expects: ClassVar[Expectations | None] = HEAD_CT

    @classmethod
    def build(cls, stored: StoredModel) -> Network:
        """ResNet-50 with its head, or a DenseNet with one output."""
        from inference.networks.weights import load_network  # loads torch

        return load_network(stored)

    @property
    def image_network(self) -> Network:
        return cast("Network", self.network)

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """Single slices."""
        return slices[list(chosen)][:, None]

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """Logits of all slices; the patient's is the largest."""
        import torch

        from inference.running.batches import in_batches

        def judged(chosen: Sequence[int]) -> Tensor:
            logits: Tensor = self.run(torch.from_numpy(self.stacks(slices, chosen)))
            return logits

        parts = [part for _, part in in_batches(range(len(slices)), self.slices_at_once, judged)]
        logits = torch.cat(parts).double().cpu().numpy()
        return Decision(volume=logits.max(axis=0), slices=logits)
