"""What the plans, the data set and the folder of an nnU-Net model ask for, and what of it is not supported."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.errors import ModelInvalid

KINDS = ("nnunet", "brain_mri")
_BRAIN_WORDS = re.compile(
    r"brain|brats|cerebr|cerebell|intracran|stroke|isch(a)?emic|h(a)?emorrhage|gliom|gliobl|meningiom|hippocamp"
    r"|(^|[\W\d_])(head|skull)s?($|[\W\d_])",
    re.IGNORECASE,
)
READERS = {
    "SimpleITKIO": False,
    "NibabelIO": False,
    "NibabelIOWithReorient": True,
    "SimpleITKIOWithReorient": True,
}
"""nnU-Net's readers of volumes, and whether they turn them to RAS; both libraries then have (slice, row, column)."""
NORMALISATIONS = tuple(f"{name}Normalization" for name in ("CT", "ZScore", "No", "RescaleTo01", "RGBTo01"))
_RESAMPLING = "resample_data_or_seg_to_shape"


def checkpoints(folder: Path) -> list[Path]:
    """The final checkpoint of every fold of a results folder; that of all cases only where it is alone.

    nnU-Net's own predictor, told no folds, leaves the latter out too.
    """
    found = sorted(folder.glob("fold_*/checkpoint_final.pth"))
    return [path for path in found if path.parent.name != "fold_all"] or found


def configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of plans together with what it inherits.

    Raises:
        ModelInvalid: the plans do not have it, or it is none that one network applies to a volume.
    """
    lineage: list[str] = []
    wanted: dict[str, Any] = {}
    parent: str | None = name
    while parent is not None:
        inherited = plans.get("configurations", {}).get(parent)
        if inherited is None or parent in lineage:
            raise ModelInvalid(f"plans.json has no configuration {parent}, or it inherits from itself.")
        lineage.append(parent)
        wanted = {**inherited, **wanted}
        parent = inherited.get("inherits_from")
    if len(wanted["patch_size"]) != 3:
        raise ModelInvalid(f"configuration {name} is for slices, which is not supported.")
    if wanted.get("previous_stage"):
        raise ModelInvalid(f"configuration {name} refines another model's result, which is not supported.")
    for part, order in (("data", 3), ("probabilities", 1)):
        usual = {"is_seg": False, "order": order, "order_z": 0, "force_separate_z": None}
        function = wanted.get(f"resampling_fn_{part}", _RESAMPLING)
        given = wanted.get(f"resampling_fn_{part}_kwargs", {})
        if function != _RESAMPLING or {**usual, **given} != usual:
            raise ModelInvalid(f"the plans resample by {function} with {given}, which is not supported.")
    return wanted


def kind_of(name: str, dataset: Mapping[str, Any]) -> str:
    """``brain_mri`` where the data set's name or most of its labels speak of the brain, else ``nnunet``."""
    names = (name, str(dataset.get("name", "")))
    structures = [label for label, value in dataset["labels"].items() if value]
    spoken = [label for label in structures if _BRAIN_WORDS.search(label)]
    of_brain = any(_BRAIN_WORDS.search(text) for text in names) or 2 * len(spoken) > len(structures)
    return "brain_mri" if of_brain else "nnunet"


def modalities(normalisation: str, channel: str) -> tuple[str, ...]:
    """Modalities of the images that a model with this normalisation of this channel was trained on."""
    if "CT" in (channel.upper(), normalisation.removesuffix("Normalization")):
        return ("CT",)
    return ("MR",) if normalisation == "ZScoreNormalization" else ()


def network_arguments(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network's arguments, of a configuration of either generation of plans.

    Raises:
        ModelInvalid: it is no plain U-Net.
    """
    architecture = wanted.get("architecture")
    if architecture is not None:
        name = str(architecture.get("network_class_name", ""))
        if not name.endswith("PlainConvUNet"):
            raise ModelInvalid(f"the network {name} is not supported, only PlainConvUNet.")
        arguments: Mapping[str, Any] = architecture["arch_kwargs"]
        return arguments
    if wanted.get("UNet_class_name", "PlainConvUNet") != "PlainConvUNet":
        raise ModelInvalid(f"the network {wanted['UNet_class_name']} is not supported.")
    kernels = wanted["conv_kernel_sizes"]
    base, most = wanted["UNet_base_num_features"], wanted["unet_max_num_features"]
    return {
        "n_stages": len(kernels),
        "features_per_stage": [min(base << stage, most) for stage in range(len(kernels))],
        "kernel_sizes": kernels,
        "strides": wanted["pool_op_kernel_sizes"],
    }
