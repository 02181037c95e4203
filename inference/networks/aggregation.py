"""Predictions of slices as one prediction of the volume, and slices with their neighbours as channels.

Shapes: N slices, C classes, F features of a slice.

References
----------
Ilse et al., "Attention-based Deep Multiple Instance Learning", ICML 2018 (attention pooling).
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
    """The weighted mean over slices, (N, C) and weights (N, 1) that add up to 1 -> (C,)."""
    return (logits * weights).sum(dim=0)


def mean_of_probabilities(logits: Tensor, weights: Tensor) -> Tensor:
    """Logits of the slices' mean probability by sigmoid, (N, C) and weights (N, 1) that add up to 1 -> (C,).

    Reckoned with logarithms, so that probabilities near 0 or 1 keep their digits.
    """
    parts = weights.log()
    present = torch.logsumexp(functional.logsigmoid(logits) + parts, dim=0)
    return present - torch.logsumexp(functional.logsigmoid(-logits) + parts, dim=0)


def mean_of_distributions(logits: Tensor, weights: Tensor) -> Tensor:
    """Logits of the slices' mean distribution by softmax, (N, C) and weights (N, 1) that add up to 1 -> (C,)."""
    return torch.logsumexp(functional.log_softmax(logits, dim=1) + weights.log(), dim=0)


def noisy_or(logits: Tensor) -> Tensor:
    """Logit of the probability that any slice is positive if slices were independent, (N, C) -> (C,).

    With a the logarithm of prod(1 - p), which is -sum(softplus(logit)), it is log(1 - exp(a)) - a.
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
"""Weighted means by what they are of: the logits, or the predictions that an activation makes of them."""


class AttentionPool(nn.Module):
    """Slices weighted by a small network on their features; the weights add up to 1."""

    def __init__(self, features: int = 512, hidden: int = 64) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.Linear(features, hidden), nn.Tanh(), nn.Linear(hidden, 1))

    def forward(self, features: Tensor) -> Tensor:
        """Weights (N, 1) of slices with features (N, F)."""
        weights: Tensor = self.attention(features).softmax(dim=0)
        return weights


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


def neighbouring_slices(
    volume: NDArray[np.float32], chosen: Sequence[int] | None = None
) -> NDArray[np.float32]:
    """Slices with the ones before and behind as channels, (N, H, W) -> (n, 3, H, W).

    ``chosen`` are the slices' numbers; None: all. The last slice repeats where there are fewer than three, as
    in seed document 000 section 3.2: the first stack is 0, 1, 1 and the last one N - 2, N - 1, N - 1.
    """
    numbers = np.arange(len(volume)) if chosen is None else np.array(chosen)
    firsts = np.maximum(numbers - 1, 0)
    lasts = np.minimum(numbers + 1, len(volume) - 1)
    return volume[np.stack([firsts, np.minimum(firsts + 1, lasts), lasts], axis=1)]
