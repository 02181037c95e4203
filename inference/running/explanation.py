"""Where a network looked: maps of the parts of an image that support an output.

Grad-CAM has a closed form for networks that end in a global average and a linear layer. The gradients at the
last feature maps are then the layer's weights divided by the number of cells, and a map is a weighted sum of
the feature maps, which the forward pass has already computed.

References: Selvaraju et al., ICCV 2017 (Grad-CAM); Chattopadhay et al., WACV 2018 (Grad-CAM++); Simonyan et al.,
2013 (saliency); Abnar and Zuidema, ACL 2020 (attention rollout); Erion et al., 2021 (expected gradients, by which
the shap library's GradientExplainer estimates SHAP values).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from inference.errors import EngineMisconfigured
from inference.networks import Network, TorchvisionNetwork

SMALLEST = 1e-7
"""Added to a map's maximum before dividing by it, as pytorch-grad-cam does."""
SHAP_SAMPLES = 24

Target = tuple[int, int]
"""The map to make: (row of the batch, output of the network)."""
Maps = list[NDArray[np.float32]]


def explain(
    network: Network, features: Tensor, images: Tensor, targets: Sequence[Target], method: str = "Grad-CAM"
) -> Maps:
    """Make one map for each target.

    Args:
        network: on the device of ``features`` and ``images``; the maps are computed there.
        features: the result of :meth:`Network.feature_maps` for ``images``.
        images: shape (batch, channels, rows, columns).
        targets: the maps to make.
        method: a key of ``METHODS``.

    Returns:
        Maps in [0, 1], on the CPU; their shape depends on the method.

    Raises:
        EngineMisconfigured: there is no such method, or it is not possible for this network.
    """
    if not targets:
        return []
    chosen = METHODS.get(method)
    if chosen is None:
        raise EngineMisconfigured(f"there is no explanation {method!r}: use one of {', '.join(METHODS)}.")
    return [
        np.nan_to_num(values).clip(0, 1).astype(np.float32)
        for values in chosen(network, features, images, targets)
    ]


def grad_cam(network: Network, features: Tensor, images: Tensor, targets: Sequence[Target]) -> Maps:
    """Grad-CAM at the last feature maps, in closed form if the network allows it."""
    weights = network.output_weights
    if weights is None:
        return _gradient_maps("GradCAM", network, features, targets)
    rows, outputs = (list(index) for index in zip(*targets, strict=True))
    with torch.no_grad():
        maps = torch.einsum("nf,nfrc->nrc", weights.float()[outputs], features.float()[rows]).relu()
        maps = maps / (maps.shape[1] * maps.shape[2])
        return _scaled(maps)


def grad_cam_plus_plus(network: Network, features: Tensor, images: Tensor, targets: Sequence[Target]) -> Maps:
    """Grad-CAM++ at the last feature maps."""
    return _gradient_maps("GradCAMPlusPlus", network, features, targets)


def saliency(network: Network, features: Tensor, images: Tensor, targets: Sequence[Target]) -> Maps:
    """The absolute gradient of the output at each pixel, the largest over the channels."""
    maps = []
    for row, output in targets:
        pixels = images[row : row + 1].detach().clone().requires_grad_(True)
        with torch.enable_grad():
            network(pixels)[0, output].backward()
        assert pixels.grad is not None
        maps.append(pixels.grad[0].abs().amax(dim=0))
    return _scaled(torch.stack(maps))


def attention_rollout(network: Network, features: Tensor, images: Tensor, targets: Sequence[Target]) -> Maps:
    """The attention of the class token to the patches through all layers of a ViT, the same for every output.

    Raises:
        EngineMisconfigured: the network is not a ViT.
    """
    if not isinstance(network, TorchvisionNetwork) or network.name != "vit_b_16":
        raise EngineMisconfigured("attention rollout needs a Vision Transformer: use Grad-CAM.")
    attention = _class_token_attention(network, images)
    side = round((attention.shape[1] - 1) ** 0.5)
    maps = attention[:, 1:].reshape(-1, side, side)
    return _scaled(maps[[row for row, _ in targets]])


def shap_values(network: Network, features: Tensor, images: Tensor, targets: Sequence[Target]) -> Maps:
    """The positive SHAP values of the pixels against a uniform grey image, summed over the channels."""
    import shap

    maps = []
    for row, output in targets:
        pixels = images[row : row + 1]
        background = pixels.mean(dim=(2, 3), keepdim=True).expand_as(pixels).contiguous()
        with torch.enable_grad():
            explainer = shap.GradientExplainer(_Output(network, output), background)
            values = np.asarray(explainer.shap_values(pixels, nsamples=SHAP_SAMPLES, rseed=1))
        total = values.reshape(pixels.shape[1], *pixels.shape[2:]).sum(axis=0)
        maps.append(torch.from_numpy(np.maximum(total, 0)))
    return _scaled(torch.stack(maps))


METHODS: dict[str, Callable[[Network, Tensor, Tensor, Sequence[Target]], Maps]] = {
    "Grad-CAM": grad_cam,
    "Grad-CAM++": grad_cam_plus_plus,
    "Saliency": saliency,
    "Attention rollout": attention_rollout,
    "SHAP": shap_values,
}
"""Explanations by the names that readers see on overlays."""


def _scaled(maps: Tensor) -> Maps:
    """Scale each map from its minimum and maximum to 0 and 1, as pytorch-grad-cam does."""
    maps = maps.float()
    maps = maps - maps.amin(dim=(1, 2), keepdim=True)
    maps = maps / (maps.amax(dim=(1, 2), keepdim=True) + SMALLEST)
    return list(maps.cpu().numpy())


def _gradient_maps(class_name: str, network: Network, features: Tensor, targets: Sequence[Target]) -> Maps:
    """Maps by a class of pytorch-grad-cam, applied to the end of the network from its features on."""
    import pytorch_grad_cam  # loads matplotlib and scikit-learn, which takes seconds
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    method = getattr(pytorch_grad_cam, class_name)
    chosen = features.detach().float()[[row for row, _ in targets]].requires_grad_(True)
    head = _Head(network)
    reshape = _token_maps if chosen.ndim == 3 else None
    with (
        torch.enable_grad(),
        method(model=head, target_layers=[head.features], reshape_transform=reshape) as cam,
    ):
        cam.get_target_width_height = lambda _: None
        maps = cam(input_tensor=chosen, targets=[ClassifierOutputTarget(output) for _, output in targets])
    return list(maps)


def _token_maps(tokens: Tensor) -> Tensor:
    """Tokens (batch, 1 + patches, features) as maps (batch, features, rows, columns), without the class token."""
    patches = tokens[:, 1:]
    side = round(patches.shape[1] ** 0.5)
    return patches.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)


def _class_token_attention(network: TorchvisionNetwork, images: Tensor) -> Tensor:
    """The attention of the class token to all tokens, multiplied through the layers, shape (batch, tokens)."""
    inner = network.inner
    with torch.no_grad():
        patches = inner._process_input(images)
        tokens = torch.cat([inner.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        tokens = tokens + inner.encoder.pos_embedding
        identity = torch.eye(tokens.shape[1], device=tokens.device)
        rolled = identity.expand(len(tokens), -1, -1)
        for layer in inner.encoder.layers:
            normed = layer.ln_1(tokens)
            _, weights = layer.self_attention(
                normed, normed, normed, need_weights=True, average_attn_weights=True
            )
            mixed = (weights + identity) / 2
            rolled = mixed / mixed.sum(dim=-1, keepdim=True) @ rolled
            tokens = layer(tokens)
    return rolled[:, 0]


class _Head(nn.Module):
    """The end of a network, from its features on, with an identity as the layer to explain."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.features = nn.Identity()
        self.network = network

    def forward(self, features: Tensor) -> Tensor:
        return self.network.classify(self.features(features))


class _Output(nn.Module):
    """A network with only one of its outputs, shape (batch, 1)."""

    def __init__(self, network: Network, output: int) -> None:
        super().__init__()
        self.network = network
        self.output = output

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits[:, self.output : self.output + 1]
