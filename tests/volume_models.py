"""Small models with seeded weights in the layouts of the volumetric systems, as their files come."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from monai.networks.nets.unet import UNet
from torch import nn

from inference.importing.anatomy import card_structure
from inference.networks.metastasis import MetastasisNetwork
from inference.networks.pivot import PivotNetwork
from inference.networks.volumetric import UnetResnet
from inference.store import ModelStore
from inference.store.architectures import UnetResnetArchitecture
from inference.store.card_parts import CardLabel, Thresholds, VolumePreprocessing
from inference.store.draft import Draft

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
    folder: Path,
    labels: dict[str, int],
    *,
    spacing: tuple[float, float, float] = (4.0, 3.0, 3.0),
    channel: str = "T2",
    folds: tuple[str, ...] = ("fold_0",),
    mirroring: tuple[int, ...] | None = None,
    configuration: dict[str, Any] | None = None,
    plans: dict[str, Any] | None = None,
) -> PlainConvUNet:
    """A results folder of nnU-Net; the network of its last fold. The last two arguments replace parts of plans."""
    kernels = [[1, 3, 3], [3, 3, 3], [3, 3, 3]]
    wanted: dict[str, Any] = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "patch_size": [8, 24, 24],
        "spacing": list(spacing),
        "normalization_schemes": ["ZScoreNormalization"],
        "use_mask_for_norm": [False],
        "architecture": {
            "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
            "arch_kwargs": {
                "n_stages": 3,
                "features_per_stage": list(NNUNET_FEATURES),
                "conv_op": "torch.nn.modules.conv.Conv3d",
                "kernel_sizes": kernels,
                "strides": [list(s) for s in NNUNET_STRIDES],
                "n_conv_per_stage": [2, 2, 2],
                "n_conv_per_stage_decoder": [2, 2],
                "conv_bias": True,
                "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
                "norm_op_kwargs": {"eps": 1e-5, "affine": True},
                "dropout_op": None,
                "dropout_op_kwargs": None,
                "nonlin": "torch.nn.LeakyReLU",
                "nonlin_kwargs": {"inplace": True},
            },
            "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
        },
    }
    for part, order in (("data", 3), ("seg", 1), ("probabilities", 1)):
        wanted[f"resampling_fn_{part}"] = "resample_data_or_seg_to_shape"
        wanted[f"resampling_fn_{part}_kwargs"] = {
            "is_seg": part == "seg",
            "order": order,
            "order_z": 0,
            "force_separate_z": None,
        }
    written = {
        "dataset_name": "Dataset001_Seeded",
        "configurations": {"3d_fullres": {**wanted, **(configuration or {})}},
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "foreground_intensity_properties_per_channel": {
            "0": {"mean": 30.0, "std": 300.0, "percentile_00_5": -600.0, "percentile_99_5": 500.0}
        },
        **(plans or {}),
    }
    dataset = {"channel_names": {"0": channel}, "labels": labels, "file_ending": ".nii.gz"}
    folder.mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(written))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for seed, fold in enumerate(folds, start=7):
        network = _plain_unet(kernels, len(labels), seed)
        checkpoint = {
            "network_weights": network.state_dict(),
            "init_args": {"configuration": "3d_fullres"},
            "trainer_name": "nnUNetTrainer",
            "inference_allowed_mirroring_axes": mirroring,
        }
        (folder / fold).mkdir()
        torch.save(checkpoint, folder / fold / "checkpoint_final.pth")
    return network.eval()


def _plain_unet(kernels: list[list[int]], classes: int, seed: int) -> PlainConvUNet:
    torch.manual_seed(seed)
    network = PlainConvUNet(
        1,
        3,
        NNUNET_FEATURES,
        nn.Conv3d,
        kernels,
        NNUNET_STRIDES,
        [2, 2, 2],
        classes,
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
    return network


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


def add_ct_chest(
    store: ModelStore, name: str, names: tuple[str, str] = ("Nodule", "Pulmonary_Embolism")
) -> None:
    """A model for ct_chest with seeded weights."""
    torch.manual_seed(9)
    architecture = UnetResnetArchitecture(
        unet_channels=(4, 8), resnet_layers=(1, 1, 1, 1), resnet_widths=(4, 8, 8, 8)
    )
    network = UnetResnet(architecture, structures=1, labels=2)
    settled(network, torch.rand(2, 1, 32, 32, 32))
    store.add(
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
                "structures": (card_structure(1, "Nodule"),),
            },
        ),
        name,
        origin="test",
    )
