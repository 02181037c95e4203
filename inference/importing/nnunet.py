"""Importing results folders of nnU-Net, with a check that all their plans and data set ask for is supported."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from inference.errors import ModelInvalid
from inference.importing.anatomy import BRAIN, card_structure
from inference.importing.checkpoint import json_object
from inference.store.architectures import NnunetArchitecture
from inference.store.card_parts import CardLabel, VolumePreprocessing
from inference.store.draft import Draft
from inference.store.thresholds import has_own_thresholds

if TYPE_CHECKING:
    from torch import Tensor

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
"""nnU-Net's image readers, and whether they reorient to RAS. All of them give the axes (slice, row, column)."""
NORMALISATIONS = tuple(f"{name}Normalization" for name in ("CT", "ZScore", "No", "RescaleTo01", "RGBTo01"))
_RESAMPLING = "resample_data_or_seg_to_shape"


def checkpoints(folder: Path) -> list[Path]:
    """The final checkpoints of all folds of a results folder.

    The model trained on all cases (``fold_all``) counts only if there is no other, as in nnU-Net's own predictor.
    """
    found = sorted(folder.glob("fold_*/checkpoint_final.pth"))
    return [path for path in found if path.parent.name != "fold_all"] or found


def configuration(plans: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A configuration of the plans, with the entries that it inherits.

    Raises:
        ModelInvalid: the plans do not have it, or it is not one network for whole volumes with nnU-Net's usual
            resampling.
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
    """``brain_mri`` if the data set's name or most of its labels are about the brain, else ``nnunet``."""
    names = (name, str(dataset.get("name", "")))
    structures = [label for label, value in dataset["labels"].items() if value]
    about_the_brain = [label for label in structures if _BRAIN_WORDS.search(label)]
    of_brain = any(_BRAIN_WORDS.search(text) for text in names) or 2 * len(about_the_brain) > len(structures)
    return "brain_mri" if of_brain else "nnunet"


def modalities(normalisation: str, channel: str) -> tuple[str, ...]:
    """Modalities of the training images, judged by normalisation and name of the channel; empty if unknown."""
    if "CT" in (channel.upper(), normalisation.removesuffix("Normalization")):
        return ("CT",)
    return ("MR",) if normalisation == "ZScoreNormalization" else ()


def network_arguments(wanted: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network's arguments in a configuration, from new plans or from old ones without ``architecture``.

    Raises:
        ModelInvalid: the network is no plain U-Net.
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


def nnunet_model(
    folder: Path,
    checkpoints: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Any]]],
    *,
    kind: str | None = None,
) -> Draft:
    """The model in a results folder of nnU-Net.

    Args:
        folder: the results folder, with plans.json and dataset.json.
        checkpoints: tensors and facts of each fold's checkpoint.
        kind: engine kind; None takes ``kind_of``.

    Raises:
        ModelInvalid: the plans or the data set ask for something that is not supported.
    """
    from inference.networks.volumetric import from_nnunet, stage_shapes  # loads torch

    if kind not in (None, *KINDS):
        raise ModelInvalid(f"an nnU-Net model is for {' or '.join(KINDS)} engines, not for {kind}.")
    plans, dataset = json_object(folder / "plans.json"), json_object(folder / "dataset.json")
    facts = checkpoints[0][1]
    wanted = configuration(plans, facts.get("configuration", "3d_fullres"))
    reader = plans.get("image_reader_writer", dataset.get("overwrite_image_reader_writer", "SimpleITKIO"))
    if reader not in READERS:
        raise ModelInvalid(f"the model reads images by {reader}, which is not supported.")
    channels = dataset.get("channel_names", {"0": ""})
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if len(channels) != 1:
        raise ModelInvalid("the model needs several series at once, which is not supported.")
    if any(not isinstance(value, int) for value in labels.values()):
        raise ModelInvalid("the model was trained on regions that overlap, which is not supported.")
    normalisation = wanted["normalization_schemes"][0]
    if normalisation not in NORMALISATIONS:
        raise ModelInvalid(f"normalisation {normalisation} is not supported.")
    network = stage_shapes(network_arguments(wanted))
    folds = [from_nnunet(tensors, len(network["features"])) for tensors, _ in checkpoints]
    intensity = plans.get("foreground_intensity_properties_per_channel", {}).get("0", {})
    ordered = sorted(labels.items(), key=lambda item: item[1])
    chosen = kind or kind_of(str(plans.get("dataset_name", "")), dataset)
    return Draft(
        tensors=folds[0]
        if len(folds) == 1
        else {f"folds.{n}.{name}": tensor for n, fold in enumerate(folds) for name, tensor in fold.items()},
        kind=chosen,
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=max(wanted["patch_size"]),
        input_channels=1,
        architecture=NnunetArchitecture(
            **network,
            patch_size=tuple(wanted["patch_size"]),
            normalisation=normalisation,
            intensity={
                key: float(intensity[key])
                for key in ("mean", "std", "percentile_00_5", "percentile_99_5")
                if key in intensity
            },
            masked=bool(wanted.get("use_mask_for_norm", [False])[0]),
            mirror_axes=tuple(int(axis) for axis in facts.get("inference_allowed_mirroring_axes", ())),
            canonical=READERS[reader],
            transpose=tuple(plans.get("transpose_forward", (0, 1, 2))),
            folds=len(folds),
        ),
        labels=tuple(
            CardLabel(name=name, site=BRAIN)
            for name, _ in ordered
            if chosen == "brain_mri" and has_own_thresholds(chosen, name)
        ),
        activation="softmax",
        more={
            "modalities": modalities(normalisation, str(channels.get("0", ""))),
            "volume": VolumePreprocessing.model_validate({"spacing": wanted["spacing"]}),
            "structures": tuple(card_structure(value, name) for name, value in ordered if value > 0),
        },
    )
