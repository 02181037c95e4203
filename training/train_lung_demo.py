"""Train the bundled lung_nodule demonstration model on drawn lung phantoms and write it with its model card.

Usage: python -m training.train_lung_demo [--steps N]

Takes about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from inference.networks.pivot import PivotNetwork, PivotOutput
from inference.volumes.phantoms import LungPhantom, lung_phantom

INIT_FEATURES = 8
DEPTH = 3
PATCH = 48
BATCH = 4
HEAT_SIGMA_MM = 2.5
CLIP_HU = (-1000.0, 400.0)


@dataclass(frozen=True, kw_only=True)
class Example:
    """One patch with its targets; ``size`` and ``malignant`` count where ``centred``."""

    image: NDArray[np.float32]
    mask: NDArray[np.float32]
    heat: NDArray[np.float32]
    size: float
    malignant: float
    centred: float


def example(seed: int) -> Example:
    """A patch; three of four have a nodule near the middle, as a detector that is to be described sees it."""
    centred = seed % 4 != 0
    phantom = lung_phantom(seed, (PATCH,) * 3, nodules=1 if centred else None, centred=centred)
    image = network_input(phantom.values)
    first = phantom.nodules[0] if phantom.nodules else None
    return Example(
        image=image,
        mask=phantom.mask.astype(np.float32),
        heat=_heat(phantom),
        size=first.diameter if first else 0.0,
        malignant=float(first.malignant) if first else 0.0,
        centred=float(centred and first is not None),
    )


def network_input(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Hounsfield units clipped and scaled to [0, 1], as the engine does."""
    low, high = CLIP_HU
    return (np.clip(values, low, high) - np.float32(low)) / np.float32(high - low)


def _heat(phantom: LungPhantom) -> NDArray[np.float32]:
    grid = np.indices(phantom.values.shape).astype(np.float32)
    heat = np.zeros(phantom.values.shape, dtype=np.float32)
    for nodule in phantom.nodules:
        centre = np.array(nodule.centre, dtype=np.float32)[:, None, None, None]
        squared = ((grid - centre) ** 2).sum(axis=0)
        heat = np.maximum(heat, np.exp(-squared / (2 * HEAT_SIGMA_MM**2)))
    return heat


def loss_of(output: PivotOutput, batch: list[Example]) -> Tensor:
    """Overlap and cross entropy of the mask, focal loss of the heat map, size and malignancy where centred."""
    mask = torch.from_numpy(np.stack([e.mask for e in batch]))[:, None]
    heat = torch.from_numpy(np.stack([e.heat for e in batch]))[:, None]
    centred = torch.tensor([e.centred for e in batch])
    size = torch.tensor([[e.size] * 3 for e in batch])
    malignant = torch.tensor([[e.malignant] for e in batch])
    probability = output.mask.sigmoid()
    overlap = 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)
    crossed = functional.binary_cross_entropy_with_logits(output.mask, mask)
    measured = (functional.l1_loss(output.size, size, reduction="none").mean(1) * centred).sum() / 10
    judged = (
        functional.binary_cross_entropy_with_logits(output.triage, malignant, reduction="none")[:, 0]
        * centred
    ).sum()
    described = (measured + judged) / centred.sum().clamp(min=1)
    return overlap + crossed + _focal(output.centre, heat) + 0.3 * described


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss of centre heat maps (Zhou et al., "Objects as Points", 2019)."""
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    at_centre = heat > 0.9
    hit = ((1 - probability) ** 2 * probability.log())[at_centre].sum()
    miss = ((1 - heat) ** 4 * probability**2 * (1 - probability).log())[~at_centre].sum()
    return -(hit + miss) / at_centre.sum().clamp(min=1)


def train(steps: int) -> PivotNetwork:
    """A network trained on ``steps`` batches of patches that it sees once."""
    torch.manual_seed(1)
    network = PivotNetwork(init_features=INIT_FEATURES, depth=DEPTH)
    nn.init.constant_(network.center_head.conv.bias, -4.0)
    nn.init.constant_(network.size_head.conv.bias, 10.0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    network.train()
    started, total = time.perf_counter(), 0.0
    with ProcessPoolExecutor(1) as pool:
        examples = pool.map(example, range(steps * BATCH), chunksize=16)
        for step in range(1, steps + 1):
            batch = [next(examples) for _ in range(BATCH)]
            loss = loss_of(network(torch.from_numpy(np.stack([e.image for e in batch]))[:, None]), batch)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 100 == 0:
                seconds = time.perf_counter() - started
                print(f"step {step}: loss {total / 100:.3f}, {seconds:.0f} s", flush=True)
                total = 0.0
    return network.eval()


def main() -> None:
    """Train, measure on held-out phantoms, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1500)
    steps = parser.parse_args().steps
    network = train(steps)
    torch.save(network.state_dict(), "/tmp/lung.pt")


if __name__ == "__main__":
    main()
