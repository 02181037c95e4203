"""Many inputs in batches, smaller ones from where the device's memory runs out."""

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
    """Each batch of at most ``size`` items, in order, with what ``run`` makes of it.

    A batch that the device has too little memory for is tried again as halves, and so are those behind it.

    Raises
    ------
    RuntimeError
        If one item alone needs more memory than there is, or whatever else ``run`` raises.
    """
    first = 0
    while first < len(items):
        chosen = items[first : first + size]
        try:
            result = run(chosen)
        except RuntimeError as error:
            if len(chosen) == 1 or not is_out_of_memory(error):
                raise
            size = len(chosen) // 2
            log.warning("device_memory_short batch=%d smaller=%d", len(chosen), size)
            continue
        first += len(chosen)
        yield chosen, result
