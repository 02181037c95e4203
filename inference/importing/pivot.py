"""Importing PIVOT, the nodule system: a multi-task 3D U-Net in a checkpoint of Lightning."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from inference.errors import ModelInvalid
from inference.store.architectures import PivotArchitecture
from inference.store.card_parts import CardLabel, Code, Thresholds, VolumePreprocessing
from inference.store.draft import Draft

if TYPE_CHECKING:
    from torch import Tensor

_NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")

_LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")


def is_pivot(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict belongs to the multi-task nodule network."""
    return any(name.removeprefix("model.") == "center_head.conv.weight" for name in tensors)


def pivot_model(tensors: Mapping[str, Tensor]) -> Draft:
    """The nodule network, whose width and depth follow from the shapes of its tensors.

    Raises:
        ModelInvalid: the encoders or the segmentation head are missing.
    """
    network = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    heads = ("backbone.", "segmentation_head.", "center_head.", "size_head.", "triage_head.")
    network = {name: tensor for name, tensor in network.items() if name.startswith(heads)}
    encoders = {int(m[1]) for name in network if (m := re.match(r"backbone\.encoders\.(\d+)\.", name))}
    first = network.get("backbone.encoders.0.conv.double_conv.0.weight")
    if first is None:
        raise ModelInvalid("the checkpoint is no PIVOT network: it has no encoders.")
    if "segmentation_head.conv.weight" not in network:
        raise ModelInvalid("the checkpoint has no segmentation head, which tells how large a nodule is.")
    optional: tuple[Literal["size", "triage"], ...] = ("size", "triage")
    return Draft(
        tensors=network,
        kind="lung_nodule",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=128,
        input_channels=1,
        architecture=PivotArchitecture(
            init_features=int(first.shape[0]),
            depth=len(encoders),
            heads=tuple(head for head in optional if f"{head}_head.conv.weight" in network),
        ),
        labels=(
            CardLabel(
                name="Lung nodule",
                finding=_NODULE,
                site=_LUNG,
                thresholds=Thresholds(low=0.3, high=0.5, critical=0.9),
            ),
        ),
        more={"volume": VolumePreprocessing(spacing=(1.0, 1.0, 1.0), low=-1000, high=400)},
    )
