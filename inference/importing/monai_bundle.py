"""Importing MONAI bundles: configuration, metadata and a state dict in the layout of MONAI's model zoo."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from inference.errors import ModelInvalid, ModelUntrusted
from inference.importing.anatomy import card_structure
from inference.importing.checkpoint import json_object
from inference.store.architectures import BundleArchitecture
from inference.store.bundles import BUNDLE_CONFIGS, foreign_code, without_writers
from inference.store.card_parts import CardLabel, Thresholds, VolumePreprocessing
from inference.store.draft import Draft

if TYPE_CHECKING:
    from torch import Tensor

BUNDLE_METADATA = "metadata.json"


def bundle_config(folder: Path) -> Path:
    """The file with the inference configuration of a bundle.

    Raises:
        ModelInvalid: the folder has none.
    """
    for name in BUNDLE_CONFIGS:
        if (folder / "configs" / name).is_file():
            return folder / "configs" / name
    raise ModelInvalid(f"{folder} is no MONAI bundle: it has no configs/inference.json.")


def bundle_model(folder: Path, tensors: Mapping[str, Tensor], *, kind: str | None, trust: bool) -> Draft:
    """A MONAI bundle, whose configuration and metadata become files of the model.

    Raises:
        ModelInvalid: the output is neither a segmentation nor a classification, or its channels have no names.
        ModelUntrusted: the configuration holds code and ``trust`` is False.
    """
    from monai.bundle.config_parser import ConfigParser  # loads torch

    metadata = json_object(folder / "configs" / BUNDLE_METADATA)
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
        more["structures"] = tuple(card_structure(value, name) for value, name in named if value > 0)
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


def _output_of(described: Mapping[str, Any]) -> Literal["segmentation", "classification"]:
    kinds = {str(described.get("type", "")).lower(), str(described.get("format", "")).lower()}
    if "segmentation" in kinds:
        return "segmentation"
    if kinds & {"classification", "probabilities", "probability"}:
        return "classification"
    raise ModelInvalid(f"a bundle whose output is {' / '.join(sorted(kinds))} is not supported.")
