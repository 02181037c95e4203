"""The Vision Transformer encoder in the parameter layout of Hugging Face's ViTModel.

References: Dosovitskiy et al., "An Image is Worth 16x16 Words", ICLR 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class VisionTransformer(nn.Module):
    """By default ViT-B/16 for images of 224 x 224; gives the normalised tokens, the class token first."""

    def __init__(
        self, *, size: int = 224, patch: int = 16, width: int = 768, depth: int = 12, heads: int = 12
    ) -> None:
        super().__init__()
        self.embeddings = _Embeddings(size, patch, width)
        self.encoder = _Encoder(width, depth, heads)
        self.layernorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, images: Tensor) -> Tensor:
        """Tokens of shape (batch, 1 + patches, width)."""
        return self.layernorm(self.encoder(self.embeddings(images)))


class _Embeddings(nn.Module):
    def __init__(self, size: int, patch: int, width: int) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position_embeddings = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.patch_embeddings = _Patches(patch, width)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embeddings(images)
        tokens = torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        return tokens + self.position_embeddings


class _Patches(nn.Module):
    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, width, patch, patch)

    def forward(self, images: Tensor) -> Tensor:
        return self.projection(images).flatten(2).transpose(1, 2)


class _Encoder(nn.Module):
    def __init__(self, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(width, heads) for _ in range(depth))

    def forward(self, tokens: Tensor) -> Tensor:
        for layer in self.layer:
            tokens = layer(tokens)
        return tokens


class _Layer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.intermediate = _Dense(width, 4 * width)
        self.output = _Dense(4 * width, width)
        self.layernorm_before = nn.LayerNorm(width, eps=1e-12)
        self.layernorm_after = nn.LayerNorm(width, eps=1e-12)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attention(self.layernorm_before(tokens))
        hidden = functional.gelu(self.intermediate.dense(self.layernorm_after(tokens)))
        return tokens + self.output.dense(hidden)


class _Dense(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, outputs)


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _QueryKeyValue(width)
        self.output = _Dense(width, width)
        self.heads = heads

    def forward(self, tokens: Tensor) -> Tensor:
        batch, count, width = tokens.shape

        def split(values: Tensor) -> Tensor:
            return values.view(batch, count, self.heads, -1).transpose(1, 2)

        projections = self.attention
        attended = functional.scaled_dot_product_attention(
            split(projections.query(tokens)), split(projections.key(tokens)), split(projections.value(tokens))
        )
        return self.output.dense(attended.transpose(1, 2).reshape(batch, count, width))


class _QueryKeyValue(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
