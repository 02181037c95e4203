"""The slice network of the brain metastasis system: a ResNet-50 with one channel and the head 2048-512-1.

The architecture is that of "Model Architecture". Parameter names are those of the original, so that its
checkpoints load.
"""

from __future__ import annotations

from torch import Tensor, nn

from inference.networks.network import Network


class MetastasisNetwork(Network):
    """Gives one logit for a slice of shape (1, rows, columns)."""

    def __init__(self) -> None:
        import torchvision  # takes a second

        super().__init__()
        resnet = torchvision.models.resnet50(weights=None)
        first = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        self.backbone = nn.Sequential(
            first,
            resnet.bn1,
            resnet.relu,
            resnet.maxpool,
            resnet.layer1,
            resnet.layer2,
            resnet.layer3,
            resnet.layer4,
            nn.AdaptiveAvgPool2d(1),
        )
        self.classifier = nn.Sequential(nn.Linear(2048, 512), nn.ReLU(), nn.Dropout(0.4), nn.Linear(512, 1))

    def feature_maps(self, images: Tensor) -> Tensor:
        """The maps of the last residual layer, shape (batch, 2048, rows, columns)."""
        maps: Tensor = self.backbone[:8](images)
        return maps

    def classify(self, features: Tensor) -> Tensor:
        """Logits of shape (batch, 1)."""
        logits: Tensor = self.classifier(features.mean(dim=(2, 3)))
        return logits
