"""Train the bundled brain_metastasis and hybrid_volume demonstration models on drawn head phantoms.

Usage: python -m training.train_head_demo [--volumes N]

Takes about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from inference.aggregation import AttentionPool, neighbouring_slices
from inference.networks.densenet import DenseNet
from inference.volumes.normalisation import resized, windowed, z_scored
from inference.volumes.phantoms import head_phantom

METASTASIS_SIZE = 256
HYBRID_SIZE = 128
SLICES_A_VOLUME = 8
HYBRID_LABELS = ("Brain metastasis", "Intracranial hemorrhage")


def metastasis_network() -> DenseNet:
    """A DenseNet of one channel with one logit."""
    return DenseNet(block_config=(2, 4, 6, 4), growth_rate=12, init_features=16, bottleneck=4, outputs=1)


def hybrid_networks() -> tuple[DenseNet, AttentionPool]:
    """A DenseNet of three channels and the attention over its pooled features."""
    backbone = DenseNet(
        block_config=(2, 4, 6, 4),
        growth_rate=12,
        init_features=16,
        bottleneck=4,
        input_channels=3,
        outputs=len(HYBRID_LABELS),
    )
    return backbone, AttentionPool(backbone.classifier.in_features)


def metastasis_slices(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Some slices of a phantom as the engine sees them, half of them with a lesion where there is one."""
    random = np.random.default_rng(seed)
    phantom = head_phantom(seed)
    shown, others = np.flatnonzero(phantom.lesion), np.flatnonzero(~phantom.lesion)
    chosen = np.concatenate(
        [
            random.permutation(shown)[: SLICES_A_VOLUME // 2],
            random.permutation(others)[: SLICES_A_VOLUME // 2],
        ]
    )
    pictures = [resized(z_scored(windowed(phantom.values[i], 40, 80)), METASTASIS_SIZE) for i in chosen]
    return np.stack(pictures)[:, None], phantom.lesion[chosen].astype(np.float32)[:, None]


def hybrid_volume(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """A whole phantom as stacks of three slices, and whether it has each label."""
    phantom = head_phantom(seed, size=HYBRID_SIZE)
    truth = np.array([phantom.lesion.any(), phantom.haemorrhage.any()], dtype=np.float32)
    return neighbouring_slices(windowed(phantom.values, 40, 80)), truth


def train_metastasis(volumes: int) -> DenseNet:
    """A network trained on slices of ``volumes`` phantoms."""
    torch.manual_seed(1)
    network = metastasis_network()
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=volumes)
    network.train()
    started, total = time.perf_counter(), 0.0
    for seed in range(volumes):
        pictures, truth = metastasis_slices(seed)
        if len(pictures) < 2:
            continue
        loss = functional.binary_cross_entropy_with_logits(
            network(torch.from_numpy(pictures)), torch.from_numpy(truth)
        )
        total += _step(loss, network, optimizer)
        schedule.step()
        if (seed + 1) % 100 == 0:
            print(f"{seed + 1}: loss {total / 100:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            total = 0.0
    return network.eval()


def train_hybrid(volumes: int) -> tuple[DenseNet, AttentionPool]:
    """Backbone and attention trained on labels of whole phantoms."""
    torch.manual_seed(2)
    backbone, pool = hybrid_networks()
    both = nn.ModuleList([backbone, pool])
    optimizer = torch.optim.AdamW(both.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=volumes)
    both.train()
    started, total = time.perf_counter(), 0.0
    for seed in range(volumes):
        stacks, truth = hybrid_volume(seed)
        features = backbone.feature_maps(torch.from_numpy(stacks))
        logits, _ = pool(backbone.classify(features), features.mean(dim=(2, 3)))
        loss = functional.binary_cross_entropy_with_logits(logits, torch.from_numpy(truth))
        total += _step(loss, both, optimizer)
        schedule.step()
        if (seed + 1) % 100 == 0:
            print(f"{seed + 1}: loss {total / 100:.3f}, {time.perf_counter() - started:.0f} s", flush=True)
            total = 0.0
    both.eval()
    return backbone, pool


def _step(loss: torch.Tensor, network: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(network.parameters(), 5.0)
    optimizer.step()
    return float(loss.detach())


def main() -> None:
    """Train, measure on held-out phantoms, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--volumes", type=int, default=700)
    volumes = parser.parse_args().volumes
    torch.set_num_threads(1)
    metastasis = train_metastasis(volumes)
    torch.save(metastasis.state_dict(), "/tmp/metastasis.pt")
    backbone, pool = train_hybrid(volumes)
    torch.save({"backbone": backbone.state_dict(), "pool": pool.state_dict()}, "/tmp/hybrid.pt")


if __name__ == "__main__":
    main()
