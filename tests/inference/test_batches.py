"""Batches that shrink where memory is short, and devices that answer or do not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from inference.errors import DeviceLost
from inference.running.batches import fitting, in_batches
from inference.running.device import check_device


@pytest.mark.parametrize(("fitting", "sizes"), [(9, [8, 2]), (5, [4, 4, 2]), (1, [1] * 10)])
def test_batch_that_does_not_fit_is_tried_again_smaller(fitting: int, sizes: list[int]) -> None:
    def double(chosen: Sequence[int]) -> list[int]:
        if len(chosen) > fitting:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * item for item in chosen]

    parts = list(in_batches(range(10), 8, double))
    assert [len(chosen) for chosen, _ in parts] == sizes
    assert [item for _, part in parts for item in part] == list(range(0, 20, 2))


def test_one_that_does_not_fit_alone_is_an_error() -> None:
    def too_large(_: Sequence[int]) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches([1, 2], 2, too_large))


@pytest.mark.parametrize(("free", "fits"), [(1000, 5), (10_000, 16), (10, 1)])
def test_batch_fills_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch, free: int, fits: int) -> None:
    """One input takes 100 of the device's bytes besides the 50 that are held; 30 more are reserved and unused."""
    figures = {
        "memory_allocated": 50,
        "max_memory_allocated": 150,
        "memory_reserved": 80,
        "reset_peak_memory_stats": None,
        "mem_get_info": (free, 10**6),
    }
    for name, figure in figures.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, figure=figure: figure)
    runs: list[int] = []
    assert fitting(torch.device("cuda", 0), lambda: runs.append(1), most=16) == fits
    assert len(runs) == 2


def test_device_that_is_not_there_does_not_answer() -> None:
    check_device("cpu")
    check_device("auto")
    with pytest.raises(DeviceLost):
        check_device("cuda:99")
