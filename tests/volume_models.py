"""Small models with seeded weights in the layouts of the volumetric systems, as their files come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets.unet import UNet
from torch import nn

from inference.networks.metastasis import MetastasisNetwork
from inference.networks.pivot import PivotNetwork
from inference.networks.volumetric import UnetResnet
from inference.store import ModelStore
from inference.store.anatomy import structure
from inference.store.card import CardLabel, Thresholds, UnetResnetArchitecture, VolumePreprocessing
from inference.store.importers import Draft

NNUNET_FEATURES = (4, 8, 16)
NNUNET_STRIDES = ((1, 1, 1), (1, 2, 2), (2, 2, 2))


def settled(network: nn.Module, batch: torch.Tensor) -> nn.Module:
    """A network whose batch normalisations have seen some data."""
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(batch)
    return network.eval()


def pivot_checkpoint(path: Path) -> PivotNetwork:
    """A Lightning checkpoint of the nodule system."""
    torch.manual_seed(5)
    network = PivotNetwork(init_features=4, depth=2)
    settled(network, torch.rand(2, 1, 16, 16, 16))
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}, "epoch": 3}, path)
    return network


def metastasis_checkpoint(path: Path) -> MetastasisNetwork:
    """A state dict of the brain metastasis system, with the tensors that it holds twice."""
    torch.manual_seed(6)
    network = MetastasisNetwork()
    settled(network, torch.randn(4, 1, 64, 64))
    state = dict(network.state_dict())
    state["conv1.weight"] = state["backbone.0.weight"]
    state |= {
        k.replace("backbone.6.", "layer3."): v
        for k, v in network.state_dict().items()
        if k.startswith("backbone.6.")
    }
    torch.save(state, path)
    return network


def nnunet_folder(
    folder: Path, labels: dict[str, int], *, spacing: tuple[float, float, float] = (4.0, 3.0, 3.0)
) -> PlainConvUNet:
    """A results folder of nnU-Net with one fold."""
    torch.manual_seed(7)
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    network = PlainConvUNet(
        1,
        3,
        NNUNET_FEATURES,
        nn.Conv3d,
        kernels,
        NNUNET_STRIDES,
        [2, 2, 2],
        len(labels),
        [2, 2],
        conv_bias=True,
        norm_op=nn.InstanceNorm3d,
        norm_op_kwargs={"eps": 1e-5, "affine": True},
        nonlin=nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=True,
    )
    for parameter in network.parameters():
        if parameter.dim() > 1:
            nn.init.kaiming_normal_(parameter)
    configuration = {
        "patch_size": [8, 24, 24],
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": list(NNUNET_FEATURES),
                "kernel_sizes": kernels,
                "strides": [list(s) for s in NNUNET_STRIDES],
                "n_conv_per_stage": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
            },
        },
    }
    plans = {"configurations": {"3d_fullres": configuration}, "transpose_forward": [0, 1, 2]}
    dataset = {"channel_names": {"0": "T2"}, "labels": labels}
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.save(
        {"network_weights": network.state_dict(), "init_args": {}, "trainer_name": "nnUNetTrainer"},
        folder / "fold_0" / "checkpoint_final.pth",
    )
    return network.eval()


def bundle_folder(
    folder: Path, channels: dict[str, str], *, modality: str = "CT", extra: dict[str, Any] | None = None
) -> nn.Module:
    """A MONAI bundle that segments, in the layout of the model zoo."""
    torch.manual_seed(8)
    definition = {
        "_target_": "UNet",
        "spatial_dims": 3,
        "in_channels": 1,
        "out_channels": len(channels),
        "channels": [4, 8],
        "strides": [2],
    }
    network = UNet(3, 1, len(channels), (4, 8), (2,))
    config = {
        "imports": ["$import os"],
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image"},
                {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
                {"_target_": "Spacingd", "keys": "image", "pixdim": [3.0, 3.0, 3.0], "mode": "bilinear"},
                {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True},
                {"_target_": "EnsureTyped", "keys": "image"},
            ],
        },
        "inferer": {
            "_target_": "SlidingWindowInferer",
            "roi_size": [32, 32, 32],
            "sw_batch_size": 2,
            "overlap": 0.25,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                {
                    "_target_": "Invertd",
                    "keys": "pred",
                    "transform": "@preprocessing",
                    "orig_keys": "image",
                    "nearest_interp": False,
                    "to_tensor": True,
                },
                {"_target_": "AsDiscreted", "keys": "pred", "argmax": True},
                {"_target_": "SaveImaged", "keys": "pred", "output_dir": "$os.getcwd()"},
            ],
        },
        **(extra or {}),
    }
    metadata = {
        "version": "0.1.0",
        "authors": "overread tests",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "modality": modality}},
            "outputs": {"pred": {"type": "image", "format": "segmentation", "channel_def": channels}},
        },
    }
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "inference.json").write_text(json.dumps(config))
    (folder / "configs" / "metadata.json").write_text(json.dumps(metadata))
    torch.save(network.state_dict(), folder / "models" / "model.pt")
    return network


def add_ct_chest(store: ModelStore, name: str) -> None:
    """A model for ct_chest with seeded weights."""
    torch.manual_seed(9)
    architecture = UnetResnetArchitecture(
        unet_channels=(4, 8), resnet_layers=(1, 1, 1, 1), resnet_widths=(4, 8, 8, 8)
    )
    network = UnetResnet(architecture, structures=1, labels=2)
    settled(network, torch.rand(2, 1, 32, 32, 32))
    names = ("Nodule", "Pulmonary_Embolism")
    store._add(
        Draft(
            tensors={k: v.contiguous() for k, v in network.state_dict().items()},
            kind="ct_chest",
            version="1",
            manufacturer="overread tests",
            licence="none",
            input_size=32,
            input_channels=1,
            architecture=architecture,
            labels=tuple(
                CardLabel(name=n, thresholds=Thresholds(low=0.25, high=0.5, critical=0.7)) for n in names
            ),
            more={
                "volume": VolumePreprocessing(spacing=(2.0, 2.0, 2.0)),
                "structures": (structure(1, "Nodule"),),
            },
        ),
        name,
        origin="test",
    )
