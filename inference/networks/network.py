"""The base of the image networks: features from images, logits and concept maps from features."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn


class Network(nn.Module):
    """A network in two parts, so that explanations can start from the features of the forward pass."""

    def feature_maps(self, images: Tensor) -> Tensor:
        """The last features: maps (batch, features, rows, columns), or tokens (batch, tokens, features)."""
        raise NotImplementedError

    def classify(self, features: Tensor) -> Tensor:
        """Logits of shape (batch, outputs) from the last features."""
        raise NotImplementedError

    @property
    def output_weights(self) -> Tensor | None:
        """Weights (outputs, features) if ``classify`` is a global average and a linear layer, else None."""
        return None

    def concept_maps(self, features: Tensor) -> Tensor | None:
        """Maps of concepts before the sigmoid, (batch, concepts, rows, columns); None if there are no concepts."""
        return None

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images of shape (batch, channels, rows, columns)."""
        return self.classify(self.feature_maps(images))

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights in the layout of the model card's architecture.

        Raises:
            RuntimeError: the weights do not fit.
        """
        self.load_state_dict(dict(tensors), strict=True)
