"""Sliding windows, their weights, augmentation and detections against MONAI, formulas and planted spheres."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from monai.inferers.utils import sliding_window_inference
from scipy import ndimage
from torch import Tensor, nn

from inference.volumes.detection import (
    Candidate,
    Peak,
    candidates,
    filter_maxima,
    intensity,
    local_maxima,
    maxima,
    peaks_after_suppression,
    without_overlaps,
)
from inference.volumes.windows import (
    AUGMENTATIONS,
    Augmentation,
    sliding_window,
    whole_volume,
    window_starts,
    window_weights,
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv3d(4, 2, 3, padding=1)).eval()


def test_average_blending_is_that_of_monai(network: nn.Module) -> None:
    volume = np.random.default_rng(1).random((40, 40, 40), dtype=np.float32)
    ours = sliding_window(
        volume,
        lambda w: network(w).detach(),
        patch=(16, 16, 16),
        stride=(8, 8, 8),
        batch_size=3,
        channels=2,
        blending="average",
    )
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(volume)[None, None], (16, 16, 16), 2, network, overlap=0.5, mode="constant"
        )
    assert ours == pytest.approx(theirs[0].numpy(), abs=1e-5)


def test_gaussian_blending_is_that_of_monai(network: nn.Module) -> None:
    volume = np.random.default_rng(2).random((32, 32, 32), dtype=np.float32)
    ours = sliding_window(
        volume,
        lambda w: network(w).detach(),
        patch=(16, 16, 16),
        stride=(8, 8, 8),
        batch_size=2,
        channels=2,
        blending="gaussian",
        sigma=0.125,
    )
    with torch.no_grad():
        theirs = sliding_window_inference(
            torch.from_numpy(volume)[None, None],
            (16, 16, 16),
            1,
            network,
            overlap=0.5,
            mode="gaussian",
            sigma_scale=0.125,
        )
    assert ours == pytest.approx(theirs[0].numpy(), abs=1e-5)


def test_weights_follow_their_formulas() -> None:
    n = 8
    i = np.arange(n)
    gaussian = np.exp(-0.5 * ((i - 3.5) / (0.125 * n)) ** 2)
    pivot = np.exp(-0.5 * ((i - n / 2) / (0.25 * n)) ** 2)
    linear = np.maximum(0, 1 - np.abs(i - n / 2) / (n / 2))
    line = (slice(None), 4, 4)
    assert window_weights((n, n, n), "gaussian")[line] == pytest.approx(gaussian * gaussian[4] ** 2, rel=1e-5)
    assert window_weights((n, n, n), "pivot_gaussian")[line] == pytest.approx(pivot, rel=1e-5)
    assert window_weights((n, n, n), "pivot_linear")[line] == pytest.approx(linear, rel=1e-5)
    assert window_weights((n, n, n), "average").min() == 1
    assert window_weights((n, n, n), "linear")[line] == pytest.approx(
        [0.25, 0.5, 0.75, 1, 1, 0.75, 0.5, 0.25]
    )


@pytest.mark.parametrize("length", [5, 16, 17, 40])
def test_windows_cover_every_voxel(length: int) -> None:
    covered = np.zeros(max(length, 16), dtype=int)
    for start in window_starts(length, 16, 8):
        covered[start : start + 16] += 1
    assert covered.min() >= 1
    assert window_starts(length, 16, 8)[-1] + 16 == max(length, 16)


@pytest.mark.parametrize("name", sorted(AUGMENTATIONS))
def test_augmentations_are_undone_exactly(name: str) -> None:
    windows = torch.rand(2, 1, 6, 6, 6)
    augmentation = AUGMENTATIONS[name]
    assert not torch.equal(augmentation.apply(windows), windows)
    assert torch.equal(augmentation.undo(augmentation.apply(windows)), windows)


def test_combined_augmentation_is_undone_exactly() -> None:
    windows = torch.rand(1, 2, 5, 5, 5)
    both = Augmentation(flips=(0, 2), plane=(1, 2), turns=3)
    assert torch.equal(both.undo(both.apply(windows)), windows)


def test_augmentation_changes_nothing_for_a_symmetric_network() -> None:
    volume = np.random.default_rng(3).random((12, 12, 12), dtype=np.float32)

    def predict(windows: Tensor) -> Tensor:
        return windows * 2

    plain = whole_volume(volume, predict, multiple=4, channels=1)
    augmented = whole_volume(
        volume, predict, multiple=4, channels=1, augmentations=list(AUGMENTATIONS.values())
    )
    assert plain[0] == pytest.approx(volume * 2)
    assert augmented == pytest.approx(plain, abs=1e-6)


def test_volume_smaller_than_a_window_is_padded(network: nn.Module) -> None:
    volume = np.random.default_rng(4).random((5, 20, 9), dtype=np.float32)
    maps = sliding_window(
        volume,
        lambda w: network(w).detach(),
        patch=(16, 16, 16),
        stride=(8, 8, 8),
        batch_size=2,
        channels=2,
    )
    assert maps.shape == (2, 5, 20, 9)
    assert np.isfinite(maps).all()


@pytest.mark.parametrize(("length", "padded"), [(21, 24), (24, 24), (5, 8)])
def test_padding_to_whole_strides_is_that_of_pivot(length: int, padded: int) -> None:
    volume = np.random.default_rng(5).random((length, 8, 8), dtype=np.float32)
    seen: list[Tensor] = []

    def predict(windows: Tensor) -> Tensor:
        seen.append(windows)
        return windows

    found = sliding_window(
        volume, predict, patch=(8, 8, 8), stride=(4, 8, 8), batch_size=1, channels=1, whole_strides=True
    )
    before = (padded - length) // 2
    whole = np.pad(volume, ((before, padded - length - before), (0, 0), (0, 0)))
    expected = np.stack([whole[start : start + 8] for start in range(0, padded - 7, 4)])
    np.testing.assert_array_equal(torch.cat(seen)[:, 0].numpy(), expected)
    np.testing.assert_allclose(found[0], volume, rtol=1e-6)


Spacing = tuple[float, float, float]


def points_of(shape: tuple[int, int, int], spacing: Spacing) -> np.ndarray:
    axes = (np.arange(n) * s for n, s in zip(shape, spacing, strict=True))
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1)


def ball(shape: tuple[int, int, int], centre: np.ndarray, radius: float, spacing: Spacing) -> np.ndarray:
    distance = np.linalg.norm(points_of(shape, spacing) - centre, axis=-1)
    filled: np.ndarray = np.clip(radius + 0.5 - distance, 0, 1).astype(np.float32)
    return filled


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (2.0, 0.7, 0.7)])
def test_planted_spheres_are_found_with_their_size(spacing: tuple[float, float, float]) -> None:
    shape = (40, 90, 90)
    centres = [np.array([20.0, 20.0, 20.0]), np.array([24.0, 45.0, 22.0]), np.array([18.0, 30.0, 48.0])]
    radii = [4.0, 6.0, 9.0]
    mask = np.max([ball(shape, c, r, spacing) for c, r in zip(centres, radii, strict=True)], axis=0)
    grid = points_of(shape, spacing)
    heat = np.max(
        [(0.95 - 0.1 * k) * np.exp(-((grid - c) ** 2).sum(-1) / 18) for k, c in enumerate(centres)],
        axis=0,
    ).astype(np.float32)
    peaks = local_maxima(heat, threshold=0.5, min_distance_mm=10, spacing=spacing)
    found = candidates(peaks, mask, spacing=spacing)
    assert len(found) == 3
    for candidate, centre, radius in zip(found, centres, radii, strict=True):
        assert np.abs(np.array(candidate.centre) - centre / np.array(spacing)).max() < 1
        assert candidate.diameter_mm == pytest.approx(2 * radius, rel=0.1)
        assert 0.85 < candidate.sphericity <= 1
    values = np.where(mask >= 0.5, np.float32(-100), np.float32(-800))
    assert intensity(values, found[0]) == pytest.approx((-100, 0))


def test_peaks_nearer_than_the_distance_are_one_lesion() -> None:
    heat = np.zeros((20, 20, 20), dtype=np.float32)
    heat[10, 10, 10], heat[10, 10, 15] = 0.9, 0.8
    assert len(local_maxima(heat, threshold=0.5, min_distance_mm=8, spacing=(1, 1, 1))) == 1
    assert len(local_maxima(heat, threshold=0.5, min_distance_mm=4, spacing=(1, 1, 1))) == 2
    assert len(local_maxima(heat, threshold=0.5, min_distance_mm=8, spacing=(1, 1, 2))) == 2


def test_maximum_filter_is_the_original_definition() -> None:
    heat = np.random.default_rng(5).random((9, 10, 11), dtype=np.float32)
    padded = np.pad(heat, 1)
    expected = {
        (z, y, x)
        for z, y, x in np.ndindex(heat.shape)
        if heat[z, y, x] >= 0.6 and heat[z, y, x] == padded[z : z + 3, y : y + 3, x : x + 3].max()
    }
    assert {peak.voxel for peak in filter_maxima(heat, threshold=0.6, kernel=3)} == expected


@pytest.mark.parametrize("threshold", [0.0, 0.5, 0.9])
def test_maxima_of_blocks_are_those_of_the_whole_map(threshold: float) -> None:
    """With plateaus, with maxima at the edges of blocks, and in the order of the voxels."""
    random = np.random.default_rng(6)
    smooth = ndimage.gaussian_filter(random.random((70, 33, 64)), 2)
    heat = np.round((smooth - smooth.min()) / np.ptp(smooth), 2).astype(np.float32)
    size = (5, 11, 7)
    highest = ndimage.maximum_filter(heat, size=size, mode="constant", cval=0.0)
    expected = np.argwhere((heat == highest) & (heat >= threshold))
    found = maxima(heat, [n // 2 for n in size], threshold)
    np.testing.assert_array_equal(found, expected)
    assert len(maxima(heat, [2, 5, 3], 1.5)) == 0


def test_volume_too_large_for_the_device_is_put_together_on_the_cpu(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    volume = np.random.default_rng(7).random((20, 30, 40), dtype=np.float32)

    def maps() -> np.ndarray:
        return sliding_window(
            volume,
            lambda w: network(w.float()).detach(),
            patch=(16, 16, 16),
            stride=(8, 8, 8),
            batch_size=4,
            channels=2,
            device="cpu:0",
        )

    expected = maps()
    whole = Tensor.new_zeros
    calls = []

    def short_of_memory(self: Tensor, *arguments: Any) -> Tensor:
        calls.append(arguments)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(self, *arguments)

    monkeypatch.setattr(Tensor, "new_zeros", short_of_memory)
    np.testing.assert_array_equal(maps(), expected)
    assert "device_memory_short maps=on the CPU" in caplog.text
    assert len(calls) == 2


def test_plain_suppression_keeps_slopes_that_are_far_enough_from_the_top() -> None:
    spacing = (2.0, 1.0, 1.0)
    places = points_of((8, 40, 40), spacing)
    heat = (0.9 - 0.02 * np.linalg.norm(places - (8, 20, 20), axis=-1)).astype(np.float32)
    assert len(local_maxima(heat, threshold=0.6, min_distance_mm=10, spacing=spacing)) == 1
    peaks = peaks_after_suppression(heat, threshold=0.6, min_distance_mm=10, spacing=spacing)
    kept = np.array([places[peak.voxel] for peak in peaks])
    assert peaks[0].voxel == (4, 20, 20)
    assert [peak.value for peak in peaks] == sorted((peak.value for peak in peaks), reverse=True)
    between = np.linalg.norm(kept[:, None] - kept, axis=-1)
    assert len(peaks) > 1 and between[~np.eye(len(peaks), dtype=bool)].min() >= 10
    above = places[heat >= 0.6]
    assert np.linalg.norm(above[:, None] - kept, axis=-1).min(axis=1).max() < 10


def hook(corner: int, end: int) -> Candidate:
    """A lesion in a box of 10 x 10 x 10 voxels whose mass lies at one end of it."""
    mask = np.zeros((30, 10, 10), dtype=np.float32)
    mask[corner : corner + 10, 0, 0] = 1
    mask[end] = 1
    (found,) = candidates([Peak(voxel=(end, 0, 0), value=0.9 - corner / 100)], mask, spacing=(2.0, 1.0, 1.0))
    return found


def test_suppression_compares_the_bounding_boxes() -> None:
    one, other = hook(0, 0), hook(4, 13)
    overlap = 6 / 14
    assert len(without_overlaps([one, other], iou=overlap - 0.01)) == 1
    assert len(without_overlaps([one, other], iou=overlap + 0.01)) == 2
    assert one.extent == (20, 10, 10)


def test_peaks_in_one_component_split_it_or_share_it() -> None:
    mask = np.zeros((12, 12, 30), dtype=np.float32)
    mask[2:10, 2:10, 2:28] = 1
    peaks = [Peak(voxel=(5, 5, 6), value=0.9), Peak(voxel=(5, 5, 20), value=0.8)]
    split = candidates(peaks, mask, spacing=(1, 1, 1))
    assert [c.mask.shape for c in split] == [(8, 8, 12), (8, 8, 15)]
    assert [c.corner for c in split] == [(2, 2, 2), (2, 2, 13)]
    assert len(without_overlaps(split, iou=0.3)) == 2
    whole = candidates(peaks, mask, spacing=(1, 1, 1), shared="whole")
    assert [c.mask.shape for c in whole] == [(8, 8, 26)] * 2
    assert without_overlaps(whole, iou=0.3) == [whole[0]]


def test_overlapping_candidates_are_suppressed() -> None:
    spacing = (1.0, 1.0, 1.0)
    mask = np.zeros((30, 30, 30), dtype=np.float32)
    mask[10:20, 10:20, 10:20] = 1
    heat = np.zeros_like(mask)
    heat[15, 15, 13], heat[15, 15, 16] = 0.9, 0.8
    found = candidates(
        local_maxima(heat, threshold=0.5, min_distance_mm=1, spacing=spacing), mask, spacing=spacing
    )
    assert len(found) == 2
    assert sum(c.volume_mm3 for c in found) <= 1000 + 100
    whole = candidates(
        local_maxima(heat, threshold=0.85, min_distance_mm=1, spacing=spacing), mask, spacing=spacing
    )
    assert len(without_overlaps([*whole, *whole], iou=0.3)) == 1
