"""Train the bundled brain_metastasis and hybrid_volume demonstration models on drawn head phantoms.

Usage: python -m training.train_head_demo [--phantoms N] [--epochs N]

Takes about twenty minutes on one core.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from inference.demo.volume_phantoms import head_phantom
from inference.networks.aggregation import AttentionPool, mean_of_logits, neighbouring_slices
from inference.networks.densenet import DenseNet
from inference.networks.hybrid import HybridNetwork
from inference.store.architectures import DenseNetArchitecture, HybridArchitecture
from inference.store.card_parts import CardLabel, Thresholds, VolumePreprocessing
from inference.volumes.normalisation import resized, windowed, z_scored
from training.demonstration import write_demonstration
from training.expectations import head_expectations

METASTASIS_SIZE = 256
HYBRID_SIZE = 128
HYBRID_LABELS = ("Brain metastasis", "Intracranial hemorrhage")
METASTASIS = DenseNetArchitecture(block_config=(2, 4, 6, 4), growth_rate=12, init_features=16)
HYBRID = DenseNetArchitecture(block_config=(2, 4, 6, 4), growth_rate=16, init_features=24)
HELD_OUT_SEED = 10_000_000
HELD_OUT = 100
BATCH = 16


@dataclass(frozen=True, kw_only=True)
class Heads:
    """Head phantoms for training.

    ``pictures`` are windowed slices, shape (phantoms, slices, rows, columns). ``shown`` says for each slice whether it
    shows a lesion and a haemorrhage, shape (phantoms, slices, 2).
    """

    pictures: NDArray[np.uint8]
    shown: NDArray[np.bool_]


def draw(first: int, count: int) -> Heads:
    """Draw ``count`` phantoms with consecutive seeds."""
    phantoms = [head_phantom(seed) for seed in range(first, first + count)]
    pictures = [np.rint(windowed(p.values, 40, 80) * 255).astype(np.uint8) for p in phantoms]
    return Heads(
        pictures=np.stack(pictures),
        shown=np.stack([np.stack([p.lesion, p.haemorrhage], axis=1) for p in phantoms]),
    )


def metastasis_input(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One slice as the engine's network input: z-scored and resized, shape (1, size, size)."""
    return resized(z_scored(picture.astype(np.float32) / 255), METASTASIS_SIZE)[None]


def hybrid_input(pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A phantom's slices with their neighbours as channels, shape (slices, 3, size, size)."""
    small = np.stack([resized(p.astype(np.float32) / 255, HYBRID_SIZE) for p in pictures])
    return neighbouring_slices(small)


def train_metastasis(heads: Heads, epochs: int) -> DenseNet:
    """Train the slice network, on as many slices with a lesion as without."""
    torch.manual_seed(1)
    random = np.random.default_rng(1)
    network = DenseNet(**METASTASIS.model_dump(exclude={"family"}), input_channels=1, outputs=1)
    lesion = heads.shown[..., 0]
    positive = np.argwhere(lesion)
    negative = np.argwhere(~lesion)

    def batch() -> tuple[Tensor, Tensor]:
        chosen = np.concatenate(
            [
                positive[random.integers(0, len(positive), BATCH // 2)],
                negative[random.integers(0, len(negative), BATCH // 2)],
            ]
        )
        pictures = np.stack([metastasis_input(heads.pictures[p, s]) for p, s in chosen])
        truth = lesion[chosen[:, 0], chosen[:, 1]].astype(np.float32)[:, None]
        if random.random() < 0.5:
            pictures = pictures[..., ::-1].copy()
        return torch.from_numpy(pictures), torch.from_numpy(truth)

    return _train(network, batch, epochs * len(positive) * 2 // BATCH)


def train_hybrid(heads: Heads, epochs: int) -> HybridNetwork:
    """Train the backbone on what each slice shows, then the attention on what each phantom shows."""
    torch.manual_seed(2)
    random = np.random.default_rng(2)
    backbone = DenseNet(**HYBRID.model_dump(exclude={"family"}), input_channels=3, outputs=len(HYBRID_LABELS))
    stacks = [hybrid_input(pictures) for pictures in heads.pictures]
    places = np.argwhere(np.ones(heads.shown.shape[:2]))

    def batch() -> tuple[Tensor, Tensor]:
        chosen = places[random.integers(0, len(places), 2 * BATCH)]
        pictures = np.stack([stacks[p][s] for p, s in chosen])
        truth = heads.shown[chosen[:, 0], chosen[:, 1]].astype(np.float32)
        return torch.from_numpy(pictures), torch.from_numpy(truth)

    _train(backbone, batch, epochs * len(places) // (2 * BATCH))
    pool = AttentionPool(backbone.classifier.in_features)
    optimizer = torch.optim.AdamW(pool.parameters(), lr=3e-3)
    truths = torch.from_numpy(heads.shown.any(axis=1).astype(np.float32))
    with torch.no_grad():
        features = [backbone.feature_maps(torch.from_numpy(s)).mean(dim=(2, 3)) for s in stacks]
        logits = [backbone.classifier(f) for f in features]
    for _ in range(20):
        for index in random.permutation(len(features)):
            pooled = mean_of_logits(logits[index], pool(features[index]))
            loss = functional.binary_cross_entropy_with_logits(pooled, truths[index])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return HybridNetwork(backbone, pool.eval(), "logits")


def _train(network: DenseNet, batch: Callable[[], tuple[Tensor, Tensor]], steps: int) -> DenseNet:
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    network.train()
    started, total = time.perf_counter(), 0.0
    for step in range(1, steps + 1):
        pictures, truth = batch()
        loss = functional.binary_cross_entropy_with_logits(network(pictures), truth)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        total += float(loss.detach())
        if step % 100 == 0:
            print(
                f"step {step} of {steps}: loss {total / 100:.3f}, {time.perf_counter() - started:.0f} s",
                flush=True,
            )
            total = 0.0
    return network.eval()


def main() -> None:
    """Draw phantoms, train, measure on held-out ones, and write the models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantoms", type=int, default=400)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    heads, held_out = draw(0, arguments.phantoms), draw(HELD_OUT_SEED, HELD_OUT)
    truths = np.asarray(held_out.shown.any(axis=1))
    training = (
        f"Trained on {arguments.phantoms} drawn head phantoms and measured on {HELD_OUT} others. "
        "It has never seen a patient: a demonstration model, not for clinical use."
    )
    metastasis = train_metastasis(heads, arguments.epochs)
    with torch.no_grad():
        scores = [
            float(metastasis(torch.from_numpy(np.stack([metastasis_input(p) for p in pictures]))).max())
            for pictures in held_out.pictures
        ]
    write_demonstration(
        metastasis.state_dict(),
        kind="brain_metastasis",
        input_size=METASTASIS_SIZE,
        architecture=METASTASIS,
        labels=(_label("Brain metastasis"),),
        volume=VolumePreprocessing(low=0, high=80, normalisation="zscore"),
        training=training,
        expects=head_expectations(),
        auc={"Brain metastasis": round(float(roc_auc_score(truths[:, 0], scores)), 4)},
    )
    hybrid = train_hybrid(heads, arguments.epochs)
    with torch.no_grad():
        logits = np.stack([_volume_logits(hybrid, pictures) for pictures in held_out.pictures])
    write_demonstration(
        hybrid.state_dict(),
        kind="hybrid_volume",
        input_size=HYBRID_SIZE,
        input_channels=3,
        architecture=HybridArchitecture(backbone=HYBRID, aggregator="attention", mean_of="logits"),
        labels=tuple(_label(name) for name in HYBRID_LABELS),
        volume=VolumePreprocessing(low=0, high=80),
        training=training,
        expects=head_expectations(),
        auc={
            name: round(float(roc_auc_score(truths[:, i], logits[:, i])), 4)
            for i, name in enumerate(HYBRID_LABELS)
        },
    )


def _volume_logits(hybrid: HybridNetwork, pictures: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Logits of one volume, shape (labels,)."""
    _, logits, features = hybrid.describe(torch.from_numpy(hybrid_input(pictures)))
    aggregated: NDArray[np.float32] = hybrid.aggregate(logits, features).numpy()
    return aggregated


def _label(name: str) -> CardLabel:
    return CardLabel(name=name, thresholds=Thresholds(low=0.2, high=0.5, critical=0.9))


if __name__ == "__main__":
    main()
