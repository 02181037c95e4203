"""A process of its own that unpickles one trusted checkpoint and writes what it holds as plain data.

Unpickling can run any code in the file. So it happens here and never in a serving process, with limits of memory and
time. Only the tensors and a few plain facts come out.

Usage: python -m inference.importing.unpickler FILE FOLDER
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.own_process import limit_this_process

MEMORY_BYTES = 8 << 30
PROCESSOR_SECONDS = 600
TENSORS = "tensors.safetensors"
FACTS = "facts.json"
FACT_NAMES = (
    "targets",
    "pathologies",
    "apply_sigmoid",
    "class_names",
    "architecture",
    "epoch",
    "best_val_acc",
    "optimal_threshold",
    "inference_allowed_mirroring_axes",
)
STATE_DICT_NAMES = ("state_dict", "model_state_dict", "network_weights")


def main(source: Path, folder: Path) -> None:
    """Unpickle ``source`` and write its tensors and facts into ``folder``.

    Raises:
        SystemExit: the file holds no tensors; the message is the reason.
    """
    limit_this_process(memory_bytes=MEMORY_BYTES, processor_seconds=PROCESSOR_SECONDS)
    import torch
    from safetensors.torch import save_file

    content: Any = torch.load(source, map_location="cpu", weights_only=False)
    facts: dict[str, Any] = {}
    if isinstance(content, torch.nn.Module):
        for module in content.modules():
            # Modules that old releases of torch pickled lack this attribute, which state_dict() reads.
            module.__dict__.setdefault("_non_persistent_buffers_set", set())
        facts["module"] = type(content).__name__
        facts |= _plain_facts(vars(content))
        operating_points = getattr(content, "op_threshs", None)
        if operating_points is not None:
            points = [float(point) for point in operating_points]
            facts["op_threshs"] = [None if math.isnan(point) else point for point in points]
        tensors: Mapping[str, Any] = content.state_dict()
    elif isinstance(content, Mapping):
        tensors = content
        for name in STATE_DICT_NAMES:
            if isinstance(content.get(name), Mapping):
                tensors = content[name]
                break
        facts |= _plain_facts(content)
    else:
        raise SystemExit("the file holds neither a module nor a state dict")
    kept = {
        str(name): tensor.detach().clone().contiguous()
        for name, tensor in tensors.items()
        if isinstance(tensor, torch.Tensor)
    }
    if not kept:
        raise SystemExit("the file holds no tensors")
    save_file(kept, folder / TENSORS)
    (folder / FACTS).write_text(json.dumps(facts))


def _plain_facts(content: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {}
    arguments = content.get("init_args")  # nnU-Net's; they name the configuration
    if isinstance(arguments, Mapping) and "configuration" in arguments:
        facts["configuration"] = str(arguments["configuration"])
    for name in FACT_NAMES:
        value: Any = content.get(name)
        if getattr(value, "ndim", None) == 0:  # a number of NumPy or torch
            value = value.item()
        if isinstance(value, (str, bool, int, float)):
            facts[name] = value
        elif isinstance(value, (list, tuple)):
            facts[name] = [str(item) for item in value]
    return facts


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
