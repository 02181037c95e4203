"""DenseNet for images with one or more channels.

The parameter names are those of torchxrayvision's and torchvision's DenseNet, so that their weights load.

References: Huang, Liu, van der Maaten and Weinberger, "Densely Connected Convolutional Networks", CVPR 2017.
"""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional

from inference.networks.network import Network


class DenseNet(Network):
    """Dense blocks with transitions between them, a global average and one linear layer.

    Args:
        block_config: number of layers of each dense block; (6, 12, 24, 16) is DenseNet-121.
        growth_rate: channels that each layer adds.
        init_features: channels after the first convolution.
        bottleneck: channels of a layer's 1 x 1 convolution, as a multiple of ``growth_rate``.
        input_channels: channels of the image.
        outputs: number of logits.
    """

    def __init__(
        self,
        *,
        block_config: tuple[int, ...] = (6, 12, 24, 16),
        growth_rate: int = 32,
        init_features: int = 64,
        bottleneck: int = 4,
        input_channels: int = 1,
        outputs: int = 18,
    ) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict(
            conv0=nn.Conv2d(input_channels, init_features, kernel_size=7, stride=2, padding=3, bias=False),
            norm0=nn.BatchNorm2d(init_features),
            relu0=nn.ReLU(inplace=True),
            pool0=nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
        )
        channels = init_features
        for number, count in enumerate(block_config, start=1):
            layers[f"denseblock{number}"] = _DenseBlock(count, channels, growth_rate, bottleneck)
            channels += count * growth_rate
            if number < len(block_config):
                layers[f"transition{number}"] = _Transition(channels, channels // 2)
                channels //= 2
        layers[f"norm{len(block_config) + 1}"] = nn.BatchNorm2d(channels)
        self.features = nn.Sequential(layers)
        self.classifier = nn.Linear(channels, outputs)

    def feature_maps(self, images: Tensor) -> Tensor:
        """The last feature maps, rectified, of shape (batch, features, rows, columns)."""
        return functional.relu(self.features(images))

    @property
    def output_weights(self) -> Tensor:
        """The linear layer's weights, shape (outputs, features)."""
        return self.classifier.weight

    def classify(self, feature_maps: Tensor) -> Tensor:
        """Logits of shape (batch, outputs) from the last feature maps."""
        logits: Tensor = self.classifier(feature_maps.mean(dim=(2, 3)))
        return logits


class _DenseLayer(nn.Sequential):
    def __init__(self, channels: int, growth_rate: int, bottleneck: int) -> None:
        super().__init__(
            OrderedDict(
                norm1=nn.BatchNorm2d(channels),
                relu1=nn.ReLU(inplace=True),
                conv1=nn.Conv2d(channels, bottleneck * growth_rate, kernel_size=1, bias=False),
                norm2=nn.BatchNorm2d(bottleneck * growth_rate),
                relu2=nn.ReLU(inplace=True),
                conv2=nn.Conv2d(bottleneck * growth_rate, growth_rate, kernel_size=3, padding=1, bias=False),
            )
        )

    def forward(self, maps: Tensor) -> Tensor:
        return torch.cat([maps, super().forward(maps)], dim=1)


class _DenseBlock(nn.Sequential):
    def __init__(self, count: int, channels: int, growth_rate: int, bottleneck: int) -> None:
        super().__init__(
            OrderedDict(
                (
                    f"denselayer{index + 1}",
                    _DenseLayer(channels + index * growth_rate, growth_rate, bottleneck),
                )
                for index in range(count)
            )
        )


class _Transition(nn.Sequential):
    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__(
            OrderedDict(
                norm=nn.BatchNorm2d(channels),
                relu=nn.ReLU(inplace=True),
                conv=nn.Conv2d(channels, reduced, kernel_size=1, bias=False),
                pool=nn.AvgPool2d(kernel_size=2, stride=2),
            )
        )
