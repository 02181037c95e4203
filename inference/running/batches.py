"""Many inputs in batches, which become smaller when the device's memory runs out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from inference.errors import is_out_of_memory

log = logging.getLogger("overread.inference")

Item = TypeVar("Item")
Result = TypeVar("Result")


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
