"""Writes a bundled demonstration model: its weights and its card."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from inference.store.card import ModelCard

FOLDER = Path(__file__).resolve().parents[1] / "inference" / "demo"


def write_demonstration(tensors: Mapping[str, Tensor], *, kind: str, **card: Any) -> Path:
    """Write the demonstration model of an engine kind.

    Args:
        tensors: the network's state dict.
        kind: engine kind, which also names the model's folder.
        card: further fields of the card.
    """
    folder = FOLDER / kind
    folder.mkdir(parents=True, exist_ok=True)
    weights = folder / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, weights)
    written = ModelCard(
        name="demo",
        version="1",
        kind=kind,
        manufacturer="overread",
        licence="the licence of overread",
        origin=f"training, {kind}",
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        demonstration=True,
        **card,
    )
    (folder / "card.json").write_text(written.model_dump_json(indent=2) + "\n")
    print(f"{weights}: {weights.stat().st_size / 1e6:.2f} MB, {written.auc or written.froc}")
    return folder
