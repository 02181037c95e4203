"""Checkpoints of the volumetric systems as models of the store: PIVOT, brain metastases, nnU-Net, MONAI bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.errors import ModelInvalid, ModelUntrusted
from inference.store.anatomy import structure
from inference.store.card import (
    BundleArchitecture,
    CardLabel,
    Code,
    MetastasisArchitecture,
    NnunetArchitecture,
    PivotArchitecture,
    Thresholds,
    VolumePreprocessing,
)
from inference.store.importers import Draft
from inference.thresholds import has_own_thresholds

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")
BUNDLE_METADATA = "metadata.json"

_NODULE = Code(value="27925004", scheme="SCT", meaning="Nodule")
_LUNG = Code(value="39607008", scheme="SCT", meaning="Lung")
_BRAIN = Code(value="12738006", scheme="SCT", meaning="Brain")
_SAFE_EXPRESSIONS = (
    r"\$@[\w:#.]+(\.to\(@[\w:#.]+\))?",
    r"\$torch\.device\('(cpu|cuda(:\d+)?)'( if torch\.cuda\.is_available\(\) else 'cpu')?\)",
    r"\$torch\.device\(\"(cpu|cuda(:\d+)?)\"( if torch\.cuda\.is_available\(\) else \"cpu\")?\)",
)
"""Expressions of bundles that only refer to other entries or name a device."""
_SAFE_TARGET = re.compile(r"(monai\.(networks|transforms|inferers)[\w.]*|torch\.nn\.[\w.]+|[A-Z]\w*)")
_WRITERS = ("SaveImaged", "SaveImage", "SaveClassificationd")
BUNDLE_PARTS = ("network_def", "preprocessing", "inferer", "postprocessing")


def is_pivot(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of the multi-task nodule network."""
    return any(name.removeprefix("model.") == "center_head.conv.weight" for name in tensors)


def pivot_model(tensors: Mapping[str, Tensor]) -> Draft:
    """The nodule network; its width and depth follow from the shapes."""
    network = {name.removeprefix("model."): tensor for name, tensor in tensors.items()}
    heads = ("backbone.", "segmentation_head.", "center_head.", "size_head.", "triage_head.")
    network = {name: tensor for name, tensor in network.items() if name.startswith(heads)}
    encoders = {int(m[1]) for name in network if (m := re.match(r"backbone\.encoders\.(\d+)\.", name))}
    first = network.get("backbone.encoders.0.conv.double_conv.0.weight")
    if first is None:
        raise ModelInvalid("the checkpoint is no PIVOT network: it has no encoders.")
    return Draft(
        tensors=network,
        kind="lung_nodule",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=128,
        input_channels=1,
        architecture=PivotArchitecture(init_features=int(first.shape[0]), depth=len(encoders)),
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


def is_metastasis(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of the brain metastasis system's slice network."""
    return "classifier.3.weight" in tensors and "backbone.0.weight" in tensors


def metastasis_model(tensors: Mapping[str, Tensor], threshold: float = 0.25) -> Draft:
    """The slice network of the brain metastasis system.

    The tensors that its checkpoint holds a second time are left out; a first convolution for three channels
    is averaged into one. ``threshold`` is in the middle of what its document calls typical.
    """
    network = {n: t for n, t in tensors.items() if n.startswith(("backbone.", "classifier."))}
    first = network["backbone.0.weight"]
    if first.shape[1] == 3:
        network["backbone.0.weight"] = first.mean(dim=1, keepdim=True)
    return Draft(
        tensors=network,
        kind="brain_metastasis",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=256,
        input_channels=1,
        architecture=MetastasisArchitecture(),
        labels=(
            CardLabel(
                name="Brain metastasis",
                site=_BRAIN,
                thresholds=Thresholds(low=threshold / 2, high=threshold, critical=max(0.75, threshold)),
            ),
        ),
        more={"volume": VolumePreprocessing(low=0, high=80, normalisation="zscore")},
    )


def nnunet_model(folder: Path, tensors: Mapping[str, Tensor], configuration: str = "3d_fullres") -> Draft:
    """A results folder of nnU-Net: the plans of one configuration and the weights of one fold.

    Raises:
        ModelInvalid: the plans ask for what is not supported.
    """
    from inference.networks.volumetric import from_nnunet, plain_facts  # loads torch

    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    wanted = plans.get("configurations", {}).get(configuration)
    if wanted is None:
        raise ModelInvalid(f"{folder}/plans.json has no configuration {configuration}.")
    channels = dataset.get("channel_names", {"0": ""})
    labels = dataset["labels"]
    if len(channels) != 1:
        raise ModelInvalid("the model needs several series at once, which is not supported.")
    if any(not isinstance(value, int) for value in labels.values()):
        raise ModelInvalid("the model was trained on regions that overlap, which is not supported.")
    if list(plans.get("transpose_forward", [0, 1, 2])) != [0, 1, 2]:
        raise ModelInvalid("the plans turn the axes, which is not supported.")
    normalisation = wanted["normalization_schemes"][0]
    if normalisation not in ("CTNormalization", "ZScoreNormalization", "NoNormalization"):
        raise ModelInvalid(f"normalisation {normalisation} is not supported.")
    facts = plain_facts(_network_arguments(wanted))
    intensity = plans.get("foreground_intensity_properties_per_channel", {}).get("0", {})
    ordered = sorted(labels.items(), key=lambda item: item[1])
    return Draft(
        tensors=from_nnunet(tensors, len(facts["features"])),
        kind="brain_mri",
        version="1",
        manufacturer="unknown",
        licence="unknown",
        input_size=max(wanted["patch_size"]),
        input_channels=1,
        architecture=NnunetArchitecture(
            **facts,
            patch_size=tuple(wanted["patch_size"]),
            normalisation=normalisation,
            intensity={
                key: float(intensity[key])
                for key in ("mean", "std", "percentile_00_5", "percentile_99_5")
                if key in intensity
            },
        ),
        labels=tuple(
            CardLabel(name=name, site=_BRAIN) for name, _ in ordered if has_own_thresholds("brain_mri", name)
        ),
        activation="softmax",
        more={
            "modalities": ("CT",) if normalisation == "CTNormalization" else ("MR",),
            "volume": VolumePreprocessing.model_validate({"spacing": wanted["spacing"]}),
            "structures": tuple(structure(value, name) for name, value in ordered if value > 0),
        },
    )


def _network_arguments(configuration: Mapping[str, Any]) -> Mapping[str, Any]:
    """The network's arguments, of plans of either generation."""
    architecture = configuration.get("architecture")
    if architecture is not None:
        name = str(architecture.get("network_class_name", ""))
        if not name.endswith("PlainConvUNet"):
            raise ModelInvalid(f"the network {name} is not supported, only PlainConvUNet.")
        arguments: Mapping[str, Any] = architecture["arch_kwargs"]
        return arguments
    if configuration.get("UNet_class_name", "PlainConvUNet") != "PlainConvUNet":
        raise ModelInvalid(f"the network {configuration['UNet_class_name']} is not supported.")
    kernels = configuration["conv_kernel_sizes"]
    base, most = configuration["UNet_base_num_features"], configuration["unet_max_num_features"]
    return {
        "n_stages": len(kernels),
        "features_per_stage": [min(base << stage, most) for stage in range(len(kernels))],
        "kernel_sizes": kernels,
        "strides": configuration["pool_op_kernel_sizes"],
    }


def bundle_config(folder: Path) -> Path:
    """The inference configuration of a bundle.

    Raises:
        ModelInvalid: there is none.
    """
    for name in BUNDLE_CONFIGS:
        if (folder / "configs" / name).is_file():
            return folder / "configs" / name
    raise ModelInvalid(f"{folder} is no MONAI bundle: it has no configs/inference.json.")


def bundle_model(folder: Path, tensors: Mapping[str, Tensor], *, kind: str | None, trust: bool) -> Draft:
    """A MONAI bundle; its configuration goes into the model's folder.

    Raises:
        ModelInvalid: its output is neither a segmentation nor a classification, or it does not describe it.
        ModelUntrusted: its configuration holds code and ``trust`` is False.
    """
    from monai.bundle.config_parser import ConfigParser  # loads torch

    metadata = _json(folder / "configs" / BUNDLE_METADATA)
    file = bundle_config(folder)
    config = ConfigParser.load_config_file(str(file))
    foreign = sorted(set(foreign_code(without_writers(config))))
    if foreign and not trust:
        raise ModelUntrusted(
            f"the bundle's configuration runs code ({foreign[0]}): add --trust if you know where it is from."
        )
    described = metadata.get("network_data_format", {}).get("outputs", {}).get("pred", {})
    channels = {int(k): str(v) for k, v in described.get("channel_def", {}).items()}
    output = _output_of(described)
    if not channels:
        raise ModelInvalid("the bundle's metadata do not name the channels of its output.")
    named = [(value, name) for value, name in sorted(channels.items())]
    more: dict[str, Any] = {}
    labels: tuple[CardLabel, ...] = ()
    if output == "segmentation":
        more["structures"] = tuple(structure(value, name) for value, name in named if value > 0)
    else:
        labels = tuple(
            CardLabel(name=name, thresholds=Thresholds(low=0.25, high=0.5, critical=0.75))
            for _, name in named
        )
    modality = str(
        metadata.get("network_data_format", {}).get("inputs", {}).get("image", {}).get("modality", "")
    ).upper()
    more["modalities"] = (
        ("CT",) if modality.startswith("CT") else ("MR",) if modality.startswith("MR") else ()
    )
    more["volume"] = VolumePreprocessing()
    return Draft(
        tensors=dict(tensors),
        kind=kind or "monai_bundle",
        version=str(metadata.get("version", "1")),
        manufacturer=str(metadata.get("authors", "unknown"))[:64],
        licence=str(metadata.get("license", metadata.get("copyright", "unknown")))[:64],
        input_size=1,
        input_channels=1,
        architecture=BundleArchitecture(output=output, code_allowed=bool(foreign)),
        labels=labels,
        activation="softmax" if output == "classification" and len(labels) > 1 else "sigmoid",
        more=more,
        files={p.name: p.read_text() for p in (file, file.with_name(BUNDLE_METADATA))},
    )


def without_writers(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the transforms that write files."""
    post = config.get("postprocessing")
    if isinstance(post, dict) and isinstance(post.get("transforms"), list):
        kept = [t for t in post["transforms"] if not (isinstance(t, dict) and t.get("_target_") in _WRITERS)]
        return {**config, "postprocessing": {**post, "transforms": kept}}
    return config


def _output_of(described: Mapping[str, Any]) -> Literal["segmentation", "classification"]:
    kinds = {str(described.get("type", "")).lower(), str(described.get("format", "")).lower()}
    if "segmentation" in kinds:
        return "segmentation"
    if kinds & {"classification", "probabilities", "probability"}:
        return "classification"
    raise ModelInvalid(f"a bundle whose output is {' / '.join(sorted(kinds))} is not supported.")


def foreign_code(config: Mapping[str, Any]) -> Iterator[str]:
    """Expressions and classes that are no plain configuration, in a bundle's parts and all they refer to."""
    pending, seen = list(BUNDLE_PARTS), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in config:
            continue
        seen.add(name)
        yield from _foreign(config[name])
        pending += re.findall(r"@(\w+)", json.dumps(config[name]))


def _foreign(node: Any) -> Iterator[str]:
    if isinstance(node, str) and node.startswith("$"):
        if not any(re.fullmatch(pattern, node) for pattern in _SAFE_EXPRESSIONS):
            yield node
    elif isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and _SAFE_TARGET.fullmatch(target) is None:
            yield target
        for value in node.values():
            yield from _foreign(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _foreign(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelInvalid(f"{path} cannot be read: {type(error).__name__}.") from error
    if not isinstance(content, dict):
        raise ModelInvalid(f"{path} is no JSON object.")
    return content
