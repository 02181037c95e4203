"""Many inputs in batches, as large as the device's memory allows, and smaller when it runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from inference.errors import is_out_of_memory

if TYPE_CHECKING:
    import torch

log = logging.getLogger("overread.inference")

Item = TypeVar("Item")
Result = TypeVar("Result")

SHARE_OF_FREE_MEMORY = 0.5
"""Of a device, that a batch may take: others use it too, and its memory falls into pieces."""


def in_batches(
    items: Sequence[Item], size: int, run: Callable[[Sequence[Item]], Result]
) -> Iterator[tuple[Sequence[Item], Result]]:
    """Yield each batch of at most ``size`` items, in order, with the result of ``run`` for it.

    If the device has too little memory for a batch, ``size`` is halved for it and all later batches.

    Raises:
        RuntimeError: one item alone needs more memory than there is, or ``run`` raised another error.
    """
    first = 0
    while first < len(items):
        batch = items[first : first + size]
        try:
            result = run(batch)
        except RuntimeError as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            size = len(batch) // 2
            log.warning("device_memory_short batch=%d smaller=%d", len(batch), size)
            continue
        first += len(batch)
        yield batch, result


def fitting(device: torch.device, run_one: Callable[[], object], most: int) -> int:
    """How many inputs a CUDA device's free memory takes at once, by what one of them takes; 1 to ``most``.

    ``run_one`` is called twice: the first call may take memory that later ones find taken. The estimate may be too
    high for kernels that need more for more inputs, which :func:`in_batches` sees.
    """
    import torch

    run_one()
    held = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run_one()
    each = max(1, torch.cuda.max_memory_allocated(device) - held)
    unused = torch.cuda.memory_reserved(device) - held
    free = torch.cuda.mem_get_info(device)[0] + unused
    return max(1, min(most, int(SHARE_OF_FREE_MEMORY * free / each)))
