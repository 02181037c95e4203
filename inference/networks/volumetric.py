"""Networks for volumes, built from MONAI's: a U-Net with a ResNet beside it, and nnU-Net's plain U-Net."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from monai.networks.blocks.dynunet_block import UnetBasicBlock
from monai.networks.nets.dynunet import DynUNet
from monai.networks.nets.resnet import ResNet
from monai.networks.nets.unet import UNet
from torch import Tensor, nn

from inference.errors import ModelInvalid
from inference.store.architectures import NnunetArchitecture, UnetResnetArchitecture


class UnetResnet(nn.Module):
    """A U-Net with one channel per structure and a ResNet with one logit per label, on the same windows."""

    def __init__(self, architecture: UnetResnetArchitecture, *, structures: int, labels: int) -> None:
        super().__init__()
        channels = architecture.unet_channels
        self.unet: nn.Module = UNet(
            spatial_dims=3,
            in_channels=1,
            out_channels=structures,
            channels=channels,
            strides=(2,) * (len(channels) - 1),
            num_res_units=2,
        )
        self.resnet: nn.Module = ResNet(
            "basic",
            list(architecture.resnet_layers),
            list(architecture.resnet_widths),
            spatial_dims=3,
            n_input_channels=1,
            num_classes=labels,
        )

    def forward(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of the masks (n, structures, ...) and of the labels (n, labels)."""
        return self.unet(windows), self.resnet(windows)


class FoldMean(nn.Module):
    """The mean output of the networks of several folds, which run one after the other."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.folds = nn.ModuleList(networks)

    def forward(self, windows: Tensor) -> Tensor:
        """The mean logits of windows, shape (n, classes, ...)."""
        total: Tensor = self.folds[0](windows)
        for network in self.folds[1:]:
            total = total + network(windows)
        return total / len(self.folds)


def dynunet(architecture: NnunetArchitecture, classes: int) -> nn.Module:
    """The network of nnU-Net's plans as MONAI's DynUNet; ``classes`` includes the background."""
    network = DynUNet(
        spatial_dims=3,
        in_channels=architecture.input_channels,
        out_channels=classes,
        kernel_size=architecture.kernel_sizes,
        strides=architecture.strides,
        upsample_kernel_size=architecture.strides[1:],
        filters=architecture.features,
        trans_bias=True,
    )
    # DynUNet's decoder uses the kernel size of the level below, nnU-Net's uses that of its own level.
    levels = len(architecture.features) - 1
    for step, level in enumerate(reversed(range(levels))):
        if architecture.kernel_sizes[level] != architecture.kernel_sizes[level + 1]:
            features = architecture.features[level]
            network.upsamples[step].conv_block = UnetBasicBlock(
                3,
                2 * features,
                features,
                kernel_size=architecture.kernel_sizes[level],
                stride=1,
                norm_name=network.norm_name,
                act_name=network.act_name,
            )
    result: nn.Module = network
    return result


def fill_dynunet(network: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load weights with the names that :func:`from_nnunet` gives.

    Raises:
        ModelInvalid: the weights do not fit.
    """
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        raise ModelInvalid("the weights are not those of the plans") from error
    # DynUNet lists its layers a second time as skip connections.
    absent = [name for name in missing if "skip_layers." not in name]
    if absent or unexpected:
        raise ModelInvalid(f"the weights are not those of the plans: {(absent or unexpected)[0]}")


def from_nnunet(weights: Mapping[str, Tensor], stages: int) -> dict[str, Tensor]:
    """The weights of nnU-Net's PlainConvUNet with DynUNet's names.

    The biases of convolutions before an instance normalisation have no effect and are left out.

    Args:
        weights: the network's state in an nnU-Net checkpoint.
        stages: of the encoder, with the bottleneck.

    Raises:
        ModelInvalid: the weights are of another network.
    """
    result: dict[str, Tensor] = {}

    def rename_block(source: str, target: str) -> None:
        for number in range(2):
            layer = f"{source}.convs.{number}"
            result[f"{target}.conv{number + 1}.conv.weight"] = weights[f"{layer}.conv.weight"]
            for part in ("weight", "bias"):
                result[f"{target}.norm{number + 1}.{part}"] = weights[f"{layer}.norm.{part}"]

    try:
        for stage in range(stages):
            target = (
                "input_block"
                if stage == 0
                else "bottleneck"
                if stage == stages - 1
                else f"downsamples.{stage - 1}"
            )
            rename_block(f"encoder.stages.{stage}.0", target)
        for step in range(stages - 1):
            rename_block(f"decoder.stages.{step}", f"upsamples.{step}.conv_block")
            for part in ("weight", "bias"):
                result[f"upsamples.{step}.transp_conv.conv.{part}"] = weights[
                    f"decoder.transpconvs.{step}.{part}"
                ]
        for part in ("weight", "bias"):
            result[f"output_block.conv.conv.{part}"] = weights[f"decoder.seg_layers.{stages - 2}.{part}"]
    except KeyError as error:
        raise ModelInvalid(f"the checkpoint is not a plain U-Net of nnU-Net: it lacks {error}") from error
    if any(".convs.2." in name for name in weights):
        raise ModelInvalid("the checkpoint has more than two convolutions per stage, which is not supported")
    return result


def stage_shapes(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """``features``, ``kernel_sizes`` and ``strides`` of each stage, from the network arguments of nnU-Net's plans."""
    stages = int(arguments["n_stages"])
    features = arguments["features_per_stage"]
    return {
        "features": tuple(int(f) for f in features)[:stages],
        "kernel_sizes": tuple(tuple(int(k) for k in kernel) for kernel in arguments["kernel_sizes"]),
        "strides": tuple(tuple(int(s) for s in stride) for stride in arguments["strides"]),
    }
