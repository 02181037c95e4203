"""Train the bundled chest_xray demonstration model on drawn chest phantoms and write it with its model card.

Usage: python -m training.train_demo [--phantoms N] [--epochs N]

Takes about ten minutes on one core. The same arguments give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from inference.demo.phantoms import FINDINGS, chest_phantom
from inference.networks.densenet import DenseNet
from inference.store.architectures import DenseNetArchitecture
from inference.store.card import ModelCard
from inference.store.pathologies import chest_label
from training.expectations import chest_expectations

FOLDER = Path(__file__).resolve().parents[1] / "inference" / "demo" / "chest_xray"
SIZE = 224
ARCHITECTURE = DenseNetArchitecture(block_config=(3, 6, 8, 6), growth_rate=16, init_features=32, bottleneck=4)
HELD_OUT_SEED = 10_000_000
HELD_OUT = 600
BATCH = 16


def main() -> None:
    """Draw phantoms, train, measure on held-out ones, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--phantoms", type=int, default=3000)
    parser.add_argument("--epochs", type=int, default=8)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    print("drawing phantoms ...", flush=True)
    with ProcessPoolExecutor(2) as pool:
        images, truths = _draw(pool, 0, arguments.phantoms)
        held_out, held_out_truths = _draw(pool, HELD_OUT_SEED, HELD_OUT)
    network = DenseNet(
        block_config=ARCHITECTURE.block_config,
        growth_rate=ARCHITECTURE.growth_rate,
        init_features=ARCHITECTURE.init_features,
        bottleneck=ARCHITECTURE.bottleneck,
        outputs=len(FINDINGS),
    )
    _train(network, images, truths, arguments.epochs)
    auc = _measure(network, held_out, held_out_truths)
    print("held out:", auc)
    _write(network, auc, arguments.phantoms)


def _draw(pool: ProcessPoolExecutor, first: int, count: int) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    drawn = list(pool.map(_draw_one, range(first, first + count), chunksize=50))
    return np.stack([picture for picture, _ in drawn]), np.array([t for _, t in drawn], dtype=np.float32)


def _draw_one(seed: int) -> tuple[NDArray[np.uint8], tuple[bool, ...]]:
    phantom = chest_phantom(seed, SIZE)
    return np.rint(phantom.picture * 255).astype(np.uint8), phantom.present


def _network_input(pictures: NDArray[np.uint8]) -> Tensor:
    """Pictures as the engine's network input, shape (n, 1, SIZE, SIZE), values in [-1024, 1024]."""
    return torch.from_numpy((pictures.astype(np.float32) / 255 * 2 - 1) * 1024)[:, None]


def _train(network: DenseNet, images: NDArray[np.uint8], truths: NDArray[np.float32], epochs: int) -> None:
    random = np.random.default_rng(1)
    steps = epochs * (len(images) // BATCH)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    loss_of = nn.BCEWithLogitsLoss()
    network.train()
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        order = random.permutation(len(images))
        for start in range(0, len(order) - BATCH + 1, BATCH):
            chosen = order[start : start + BATCH]
            pictures = images[chosen]
            if random.random() < 0.5:
                pictures = pictures[:, :, ::-1].copy()
            loss = loss_of(network(_network_input(pictures)), torch.from_numpy(truths[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        mean = total / (len(order) // BATCH)
        print(f"epoch {epoch + 1}: loss {mean:.4f}, {time.perf_counter() - started:.0f} s", flush=True)


def _measure(network: DenseNet, images: NDArray[np.uint8], truths: NDArray[np.float32]) -> dict[str, float]:
    network.eval()
    with torch.no_grad():
        parts = [network(_network_input(images[i : i + 50])) for i in range(0, len(images), 50)]
    logits = torch.cat(parts).numpy()
    return {
        name: round(float(roc_auc_score(truths[:, i], logits[:, i])), 4) for i, name in enumerate(FINDINGS)
    }


def _write(network: DenseNet, auc: dict[str, float], phantoms: int) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    weights = FOLDER / "weights.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, weights)
    card = ModelCard(
        name="demo",
        version="1",
        kind="chest_xray",
        manufacturer="overread",
        licence="the licence of overread",
        origin="training/train_demo.py",
        sha256=hashlib.sha256(weights.read_bytes()).hexdigest(),
        demonstration=True,
        input_size=SIZE,
        architecture=ARCHITECTURE,
        labels=tuple(chest_label(name) for name in FINDINGS),
        expects=chest_expectations(),
        training=(
            f"Trained on {phantoms} drawn chest phantoms and measured on {HELD_OUT} others. "
            "It has never seen a patient: a demonstration model, not for clinical use."
        ),
        auc=auc,
    )
    (FOLDER / "card.json").write_text(card.model_dump_json(indent=2) + "\n")
    print(f"{weights}: {weights.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
