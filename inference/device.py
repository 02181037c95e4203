"""The device and number format that an engine's settings ask for, on this machine."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from inference.errors import EngineMisconfigured
from inference.settings import EngineSettings

BACKENDS = ("auto", "torch")
PRECISIONS = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a network runs and in which number format; ``name`` is for reports and logs."""

    device: torch.device
    dtype: torch.dtype
    name: str

    def autocast(self) -> torch.autocast:
        """A context in which the network's forward pass runs in ``dtype``."""
        reduced = self.dtype != torch.float32
        return torch.autocast(self.device.type, dtype=self.dtype if reduced else None, enabled=reduced)


def place(settings: EngineSettings) -> Placement:
    """Resolve ``device``, ``backend`` and ``precision``; ``auto`` takes CUDA where there is one, and fp32.

    Raises
    ------
    EngineMisconfigured
        If this machine does not have what is asked for.
    """
    if settings.backend not in BACKENDS:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: {settings.kind} has no backend {settings.backend!r}; use torch."
        )
    device = _device(settings)
    dtype = PRECISIONS.get(settings.precision)
    if dtype is None:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: precision {settings.precision!r} is none of {', '.join(PRECISIONS)}."
        )
    if dtype == torch.float16 and device.type == "cpu":
        raise EngineMisconfigured(f"engine {settings.name!r}: fp16 needs a GPU; use fp32 or bf16 on the CPU.")
    name = "cpu" if device.type == "cpu" else f"{device} {torch.cuda.get_device_name(device)}"
    return Placement(device=device, dtype=dtype, name=name)


def _device(settings: EngineSettings) -> torch.device:
    if settings.device == "auto":
        return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    try:
        device = torch.device(settings.device)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise EngineMisconfigured(
            f"engine {settings.name!r}: device {settings.device!r} is not auto, cpu, cuda or cuda:N."
        )
    if device.type == "cpu":
        return torch.device("cpu")
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= found:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: there is no device {settings.device!r}, "
            f"this machine has {found} CUDA devices; use auto or cpu."
        )
    return torch.device("cuda", index)
