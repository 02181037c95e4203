"""torchvision's classification networks, with any number of input channels and outputs.

References: He et al., CVPR 2016 (ResNet); Huang et al., CVPR 2017 (DenseNet); Tan and Le, ICML 2019 (EfficientNet);
Liu et al., CVPR 2022 (ConvNeXt); Dosovitskiy et al., ICLR 2021 (ViT).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.networks.network import Network


class TorchvisionNetwork(Network):
    """A network of torchvision with one output per label; ``input_size`` in pixels matters to the ViT only."""

    def __init__(self, name: str, *, input_channels: int, outputs: int, input_size: int) -> None:
        import torchvision  # takes a second, and most workers do not need its networks

        super().__init__()
        self.name = name
        extra: dict[str, Any] = {"image_size": input_size} if name == "vit_b_16" else {}
        self.inner: Any = getattr(torchvision.models, name)(weights=None, num_classes=outputs, **extra)
        if input_channels != 3:
            _replace_first_convolution(self.inner, input_channels)

    def feature_maps(self, images: Tensor) -> Tensor:
        """The last feature maps (batch, features, rows, columns); of a ViT, tokens (batch, tokens, features)."""
        inner = self.inner
        if self.name.startswith("resnet"):
            maps = inner.maxpool(inner.relu(inner.bn1(inner.conv1(images))))
            return inner.layer4(inner.layer3(inner.layer2(inner.layer1(maps))))
        if self.name == "vit_b_16":
            return self._tokens(images)
        maps = inner.features(images)
        return functional.relu(maps) if self.name == "densenet121" else maps

    def classify(self, features: Tensor) -> Tensor:
        """Logits of shape (batch, outputs) from the last features."""
        inner = self.inner
        if self.name == "vit_b_16":
            encoded = inner.encoder.ln(inner.encoder.layers[-1](features))
            return inner.heads(encoded[:, 0])
        pooled = features.mean(dim=(2, 3))
        if self.name.startswith("resnet"):
            return inner.fc(pooled)
        if self.name == "convnext_base":
            return inner.classifier(pooled[:, :, None, None])
        return inner.classifier(pooled)

    @property
    def output_weights(self) -> Tensor | None:
        """Weights (outputs, features) if the network ends in a global average and a linear layer, else None."""
        if self.name.startswith("resnet"):
            return self.inner.fc.weight
        if self.name == "densenet121":
            return self.inner.classifier.weight
        if self.name.startswith("efficientnet"):
            return self.inner.classifier[-1].weight
        return None

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Load weights with torchvision's own names.

        Raises:
            RuntimeError: the weights do not fit.
        """
        self.inner.load_state_dict(dict(tensors), strict=True)

    def weights(self) -> dict[str, Tensor]:
        """The weights with torchvision's own names."""
        return {name: tensor.detach().contiguous() for name, tensor in self.inner.state_dict().items()}

    def _tokens(self, images: Tensor) -> Tensor:
        """The class token and the patches as input of the last encoder layer, (batch, 1 + patches, features)."""
        inner = self.inner
        patches = inner._process_input(images)
        tokens = torch.cat([inner.class_token.expand(patches.shape[0], -1, -1), patches], dim=1)
        tokens = inner.encoder.dropout(tokens + inner.encoder.pos_embedding)
        for layer in inner.encoder.layers[:-1]:
            tokens = layer(tokens)
        return tokens


def _replace_first_convolution(inner: nn.Module, channels: int) -> None:
    """Replace the first convolution by one with another number of input channels."""
    for name, module in inner.named_modules():
        if isinstance(module, nn.Conv2d):
            parent, _, attribute = name.rpartition(".")
            size: Any = module.kernel_size
            stride: Any = module.stride
            padding: Any = module.padding
            replacement = nn.Conv2d(
                channels, module.out_channels, size, stride, padding, bias=module.bias is not None
            )
            setattr(inner.get_submodule(parent), attribute, replacement)
            return
