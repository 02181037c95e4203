"""One prediction of a volume from those of its slices, and slices with their neighbours as channels.

Shapes: N slices, C classes, F features of a slice. The aggregators are those of "Models and Inference Strategy",
section 4.

References: Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018 (attention pooling).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional


def maximum(logits: Tensor) -> Tensor:
    """The largest logit of any slice, (N, C) -> (C,)."""
    return logits.amax(dim=0)


def mean_of_logits(logits: Tensor, weights: Tensor) -> Tensor:
    """The weighted mean of the logits, (N, C) and weights (N, 1) that add up to 1 -> (C,)."""
    return (logits * weights).sum(dim=0)


def mean_of_probabilities(logits: Tensor, weights: Tensor) -> Tensor:
    """The logits of the slices' mean sigmoid, (N, C) and weights (N, 1) that add up to 1 -> (C,).

    Computed with logarithms, so that probabilities near 0 or 1 keep their digits.
    """
    log_weights = weights.log()
    present = torch.logsumexp(functional.logsigmoid(logits) + log_weights, dim=0)
    return present - torch.logsumexp(functional.logsigmoid(-logits) + log_weights, dim=0)


def mean_of_distributions(logits: Tensor, weights: Tensor) -> Tensor:
    """The logits of the slices' mean softmax, (N, C) and weights (N, 1) that add up to 1 -> (C,)."""
    return torch.logsumexp(functional.log_softmax(logits, dim=1) + weights.log(), dim=0)


def noisy_or(logits: Tensor) -> Tensor:
    """The logit of the probability that any slice is positive, if slices are independent, (N, C) -> (C,).

    It is log(1 - exp(a)) - a, where a = log(prod(1 - p)) = -sum(softplus(logit)).
    """
    absent = -functional.softplus(logits).sum(dim=0)
    return torch.log(-torch.expm1(absent.clamp(max=-SMALLEST))) - absent


SMALLEST = 1e-12
POOLS: dict[str, Callable[[Tensor], Tensor]] = {"max": maximum, "noisy_or": noisy_or}
"""Aggregators without parameters or weights, by name."""
MEANS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "logits": mean_of_logits,
    "sigmoid": mean_of_probabilities,
    "softmax": mean_of_distributions,
}
"""Weighted means, by what is averaged: the logits, or their values after an activation."""


class AttentionPool(nn.Module):
    """Weights of slices from a small network on their features."""

    def __init__(self, features: int = 512, hidden: int = 64) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Weights (N, 1), which add up to 1, of slices with features (N, F)."""
        weights: Tensor = self.attention(features).softmax(dim=0)
        return weights


class LstmAggregator(nn.Module):
    """A bidirectional LSTM over the slices' features, with a linear layer on its last states."""

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
    """A Transformer encoder over the slices' features, with a class token and sinusoidal positions."""

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


def neighbouring_slices(
    volume: NDArray[np.float32], chosen: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Each chosen slice with the one before and the one after as channels, (N, H, W) -> (n, 3, H, W).

    Where a neighbour is missing, the last slice of the stack is repeated: the first stack is 0, 1, 1 and the last
    one is N - 2, N - 1, N - 1 ("Models and Inference Strategy", section 3.2).

    Args:
        volume: all slices.
        chosen: indices of slices; None: all.
    """
    numbers = np.arange(len(volume)) if chosen is None else np.array(chosen)
    firsts = np.maximum(numbers - 1, 0)
    lasts = np.minimum(numbers + 1, len(volume) - 1)
    return volume[np.stack([firsts, np.minimum(firsts + 1, lasts), lasts], axis=1)]
