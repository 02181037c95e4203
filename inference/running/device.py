"""The device, backend and number format of an engine on this machine, chosen by its settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec

import torch

from inference.errors import DeviceLost, EngineMisconfigured, is_out_of_memory
from inference.settings import EngineSettings

BACKENDS = ("auto", "torch", "openvino")
PRECISIONS = {"auto": torch.float32, "fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a network runs, with which backend and in which number format."""

    device: torch.device
    backend: str
    """``torch`` or ``openvino``."""
    dtype: torch.dtype
    name: str
    """For reports and logs, for example ``cuda:0 NVIDIA H200``."""

    def autocast(self) -> torch.autocast:
        """A context in which the network's forward pass runs in ``dtype``."""
        return torch.autocast(
            self.device.type, dtype=self.dtype if self.reduced else None, enabled=self.reduced
        )

    @property
    def reduced(self) -> bool:
        """Whether the number format is not fp32."""
        return self.dtype != torch.float32

    def exact(self) -> Placement:
        """The same placement in fp32."""
        return replace(self, dtype=torch.float32)


def place(settings: EngineSettings) -> Placement:
    """Resolve the settings ``device``, ``backend`` and ``precision``.

    ``auto`` chooses CUDA if the machine has it, and OpenVINO on the CPU if it is installed. Precision ``auto`` is
    fp32.

    Raises:
        EngineMisconfigured: this machine does not have what the settings ask for.
    """
    if settings.backend not in BACKENDS:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: backend {settings.backend!r} is none of {', '.join(BACKENDS)}."
        )
    device = _resolved_device(settings)
    dtype = PRECISIONS.get(settings.precision)
    if dtype is None:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: precision {settings.precision!r} is none of {', '.join(PRECISIONS)}."
        )
    if dtype == torch.float16 and device.type == "cpu":
        raise EngineMisconfigured(f"engine {settings.name!r}: fp16 needs a GPU; use fp32 or bf16 on the CPU.")
    backend = settings.backend
    if backend == "auto":
        backend = "openvino" if device.type == "cpu" and find_spec("openvino") else "torch"
    if backend == "openvino" and (device.type != "cpu" or not find_spec("openvino")):
        raise EngineMisconfigured(
            f"engine {settings.name!r}: OpenVINO runs on the CPU, where it is installed; use backend torch."
        )
    name = "cpu"
    if device.type == "cuda":
        # PyTorch turns TF32 on: convolutions then round their inputs to 10 bits, even in fp32.
        torch.backends.cudnn.allow_tf32 = False
        name = f"{device} {torch.cuda.get_device_name(device)}"
    return Placement(device=device, backend=backend, dtype=dtype, name=name)


def check_device(name: str) -> None:
    """Check that a device still works in this process.

    After some faults, such as a wrong address in a kernel, every CUDA call fails until the process ends.

    Args:
        name: :attr:`Placement.name`, or the setting ``device``.

    Raises:
        DeviceLost: the device does not work any more.
    """
    device = name.partition(" ")[0]
    if not device.startswith("cuda") and not (device == "auto" and torch.cuda.is_available()):
        return
    try:
        torch.cuda.synchronize(None if device == "auto" else device)
    except (AssertionError, RuntimeError, ValueError) as error:
        if not is_out_of_memory(error):
            raise DeviceLost(name) from error


def _resolved_device(settings: EngineSettings) -> torch.device:
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
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    index = device.index or 0
    if index >= count:
        raise EngineMisconfigured(
            f"engine {settings.name!r}: there is no device {settings.device!r}, "
            f"this machine has {count} CUDA devices; use auto or cpu."
        )
    return torch.device("cuda", index)
