"""Checkpoints of the volumetric systems as models of the store: PIVOT, brain metastases, nnU-Net, MONAI bundles."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.errors import ModelInvalid, ModelUntrusted
from inference.importing.importers import Draft
from inference.store import nnunet
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
from inference.store.thresholds import has_own_thresholds

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


def is_metastasis(tensors: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of the brain metastasis system's slice network."""
    return "classifier.3.weight" in tensors and "backbone.0.weight" in tensors


TYPICAL_THRESHOLD = 0.25
"""In the middle of what the document of the brain metastasis system calls typical."""


def metastasis_model(tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> Draft:
    """The slice network of the brain metastasis system.

    The tensors that its checkpoint holds a second time are left out; a first convolution for three channels
    is averaged into one. The threshold is the file's ``optimal_threshold``, where it has one. The system resizes
    slices as OpenCV's ``INTER_LINEAR`` does.

    Raises:
        ModelInvalid: the file's threshold is no probability.
    """
    threshold = facts.get("optimal_threshold", TYPICAL_THRESHOLD)
    if not isinstance(threshold, float) or not 0 < threshold < 1:
        raise ModelInvalid(f"the checkpoint's optimal_threshold is {threshold!r}, no probability.")
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
        more={"volume": VolumePreprocessing(low=0, high=80, normalisation="zscore", resize="linear")},
    )


def nnunet_model(
    folder: Path,
    checkpoints: Sequence[tuple[Mapping[str, Tensor], Mapping[str, Any]]],
    *,
    kind: str | None = None,
) -> Draft:
    """A results folder of nnU-Net: its plans, and tensors and facts of the checkpoint of each fold.

    Without a ``kind``, what speaks of the brain becomes ``brain_mri``, everything else ``nnunet``.

    Raises:
        ModelInvalid: the plans ask for what is not supported.
    """
    from inference.networks.volumetric import from_nnunet, plain_facts  # loads torch

    if kind not in (None, *nnunet.KINDS):
        raise ModelInvalid(f"an nnU-Net model is for {' or '.join(nnunet.KINDS)} engines, not for {kind}.")
    plans, dataset = _json(folder / "plans.json"), _json(folder / "dataset.json")
    facts = checkpoints[0][1]
    wanted = nnunet.configuration(plans, facts.get("configuration", "3d_fullres"))
    reader = plans.get("image_reader_writer", dataset.get("overwrite_image_reader_writer", "SimpleITKIO"))
    if reader not in nnunet.READERS:
        raise ModelInvalid(f"the model reads images by {reader}, which is not supported.")
    channels = dataset.get("channel_names", {"0": ""})
    labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
    if len(channels) != 1:
        raise ModelInvalid("the model needs several series at once, which is not supported.")
    if any(not isinstance(value, int) for value in labels.values()):
        raise ModelInvalid("the model was trained on regions that overlap, which is not supported.")
    normalisation = wanted["normalization_schemes"][0]
    if normalisation not in nnunet.NORMALISATIONS:
        raise ModelInvalid(f"normalisation {normalisation} is not supported.")
    network = plain_facts(nnunet.network_arguments(wanted))
    folds = [from_nnunet(tensors, len(network["features"])) for tensors, _ in checkpoints]
    intensity = plans.get("foreground_intensity_properties_per_channel", {}).get("0", {})
    ordered = sorted(labels.items(), key=lambda item: item[1])
    chosen = kind or nnunet.kind_of(str(plans.get("dataset_name", "")), dataset)
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
            canonical=nnunet.READERS[reader],
            transpose=tuple(plans.get("transpose_forward", (0, 1, 2))),
            folds=len(folds),
        ),
        labels=tuple(
            CardLabel(name=name, site=_BRAIN)
            for name, _ in ordered
            if chosen == "brain_mri" and has_own_thresholds(chosen, name)
        ),
        activation="softmax",
        more={
            "modalities": nnunet.modalities(normalisation, str(channels.get("0", ""))),
            "volume": VolumePreprocessing.model_validate({"spacing": wanted["spacing"]}),
            "structures": tuple(structure(value, name) for name, value in ordered if value > 0),
        },
    )


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
