"""Predictions of slices as one prediction of the volume, and slices with their neighbours as channels.

Shapes: N slices, C classes, F features of a slice.

References
----------
Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018 (attention pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Array = NDArray[np.float64]


def maximum(predictions: Array) -> Array:
    """The largest prediction of any slice, (N, C) -> (C,)."""
    return np.asarray(predictions.max(axis=0))


def mean(predictions: Array) -> Array:
    """The mean over slices, (N, C) -> (C,)."""
    return np.asarray(predictions.mean(axis=0))


def noisy_or(predictions: Array) -> Array:
    """The probability that any slice is positive if slices were independent, (N, C) -> (C,)."""
    return np.asarray(1 - np.prod(1 - predictions, axis=0))


POOLS: dict[str, Callable[[Array], Array]] = {"max": maximum, "mean": mean, "noisy_or": noisy_or}
"""Aggregators without parameters, by name."""


class AttentionPool(nn.Module):
    """Slices weighted by a small network on their features; the weights add up to 1."""

    def __init__(self, features: int = 512, hidden: int = 64) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, predictions: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Prediction (C,) and weights (N,) of slices with predictions (N, C) and features (N, F)."""
        weights = self.attention(features).softmax(dim=0)
        return (predictions * weights).sum(dim=0), weights[:, 0]


class LstmAggregator(nn.Module):
    """A bidirectional LSTM over the slices' features; its last states in both directions decide."""

    def __init__(self, features: int, classes: int, hidden: int = 128) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, hidden, batch_first=True, bidirectional=True)
        self.head = nn.Linear(2 * hidden, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (C,) of slices with features (N, F), in their order."""
        _, (states, _) = self.lstm(features[None])
        logits: Tensor = self.head(torch.cat([states[0], states[1]], dim=1))[0]
        return logits


class TransformerAggregator(nn.Module):
    """A Transformer encoder over the slices' features with a class token and sinusoidal positions."""

    def __init__(
        self, features: int, classes: int, *, width: int = 128, depth: int = 2, heads: int = 4
    ) -> None:
        super().__init__()
        self.project = nn.Linear(features, width)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)
        self.head = nn.Linear(width, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (C,) of slices with features (N, F), in their order."""
        tokens = self.project(features)[None]
        tokens = torch.cat([self.token, tokens + _positions(tokens.shape[1], tokens.shape[2])], dim=1)
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])[0]
        return logits


def _positions(count: int, width: int) -> Tensor:
    """Sinusoidal positions, shape (count, width) (Vaswani et al., 2017, section 3.5)."""
    rates = torch.exp(torch.arange(0, width, 2) * (-np.log(10000.0) / width))
    angles = torch.arange(count)[:, None] * rates
    return torch.stack([angles.sin(), angles.cos()], dim=2).reshape(count, width)


def neighbouring_slices(volume: NDArray[np.float32]) -> NDArray[np.float32]:
    """Each slice with the one before and behind it as channels, (N, H, W) -> (N, 3, H, W); edges repeat."""
    padded = np.concatenate([volume[:1], volume, volume[-1:]])
    return np.stack([padded[:-2], padded[1:-1], padded[2:]], axis=1)


def batches(slices: NDArray[np.float32], size: int) -> Iterator[NDArray[np.float32]]:
    """Consecutive parts of at most ``size`` slices."""
    for start in range(0, len(slices), size):
        yield slices[start : start + size]


def predict_volume(
    volume: NDArray[np.float32],
    predict: Callable[[NDArray[np.float32]], Array],
    aggregate: Callable[[Array], Array],
    *,
    batch_size: int = 16,
) -> tuple[Array, Array]:
    """The 2.5D way: prediction of the volume (C,) and of each slice (N, C).

    ``predict`` takes a batch of three adjacent slices as channels, (n, 3, H, W), and gives (n, C).
    """
    stacks = neighbouring_slices(volume)
    per_slice = np.concatenate([predict(batch) for batch in batches(stacks, batch_size)])
    return aggregate(per_slice), per_slice
