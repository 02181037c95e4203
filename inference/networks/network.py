"""What every network offers: features, logits of features, and maps of features for explanations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Network(nn.Module):
    """A network in two parts, so that explanations start from features that the forward pass has made."""

    def feature_maps(self, images: Tensor) -> Tensor:
        """The last features: maps of shape (batch, features, rows, columns), or tokens (batch, tokens, features)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Logits of shape (batch, outputs)."""
        raise NotImplementedError

    @property
    def output_weights(self) -> Tensor | None:
        """Weights (outputs, features) where ``classify`` is a global average and a linear layer, else None."""
        return None

    def concept_maps(self, features: Tensor) -> Tensor | None:
        """Maps of named concepts before the sigmoid, (batch, concepts, rows, columns); None where there are none."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images of shape (batch, channels, rows, columns)."""
        return self.classify(self.feature_maps(images))

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Take weights in the layout that the model card's architecture names.

        Raises:
            RuntimeError: they do not fit.
        """
        self.load_state_dict(dict(tensors), strict=True)
