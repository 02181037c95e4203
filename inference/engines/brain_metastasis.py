"""Brain metastases on head CT: every slice gets a logit, and the largest one is the patient's."""

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
    """Head CT, slice by slice. The card sets preprocessing and threshold: window 40 / 80, z-score, 256 x 256."""

    kind: ClassVar[str] = "brain_metastasis"
    body_parts: ClassVar[str] = "HEAD|BRAIN|SKULL|HEADNECK"
    expects: ClassVar[Expectations | None] = HEAD_CT

    @classmethod
    def build(cls, stored: StoredModel) -> Network:
        """The slice network: the ResNet-50 of "Model Architecture", or a DenseNet with one output."""
        from inference.networks.weights import load_network  # loads torch

        return load_network(stored)

    @property
    def image_network(self) -> Network:
        """The network for one slice."""
        return cast("Network", self.network)

    def stacks(self, slices: NDArray[np.float32], chosen: Sequence[int]) -> NDArray[np.float32]:
        """The chosen slices, each as one channel: (n, 1, size, size)."""
        return slices[list(chosen)][:, None]

    def decide(self, slices: NDArray[np.float32]) -> Decision:
        """The logits of all slices, and the largest one as the volume's."""
        import torch

        from inference.running.batches import in_batches

        def slice_logits(chosen: Sequence[int]) -> Tensor:
            logits: Tensor = self.forward(torch.from_numpy(self.stacks(slices, chosen)))
            return logits

        parts = [part for _, part in in_batches(range(len(slices)), self.slices_at_once, slice_logits)]
        logits = torch.cat(parts).double().cpu().numpy()
        return Decision(volume=logits.max(axis=0), slices=logits)
