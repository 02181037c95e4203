"""Train the bundled lung_nodule demonstration model on drawn lung phantoms and write it with its model card.

Usage: python -m training.train_lung_demo [--steps N]

Takes about fifteen minutes on two cores.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from inference.demo.volume_phantoms import LungPhantom, lung_phantom
from inference.engines.lung_nodule import LungNoduleEngine
from inference.networks.pivot import PivotNetwork, PivotOutput
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.architectures import PivotArchitecture
from inference.store.card_parts import CardLabel, Code, Thresholds, VolumePreprocessing
from inference.volumes.detection import candidates, local_maxima
from training.demonstration import FOLDER, write_demonstration
from training.expectations import lung_expectations

INIT_FEATURES = 8
DEPTH = 3
PATCH = 48
BATCH = 4
HEAT_SIGMA_MM = 2.5
CLIP_HU = (-1000.0, 400.0)
HELD_OUT_SEED = 10_000_000
HELD_OUT = 40


@dataclass(frozen=True, kw_only=True)
class Example:
    """One patch with its targets.

    ``size`` (diameter in mm) and ``malignant`` are used only if ``centred`` is 1: a nodule is near the middle.
    """

    image: NDArray[np.float32]
    mask: NDArray[np.float32]
    heat: NDArray[np.float32]
    size: float
    malignant: float
    centred: float


def example(seed: int) -> Example:
    """Draw a patch. Three of four have a nodule near the middle, which the heads for size and malignancy need."""
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
    """Hounsfield units clipped and scaled to [0, 1], as in the engine."""
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
    """Overlap and cross entropy of the mask, focal loss of the heat map, and size and malignancy of centred nodules."""
    mask = torch.from_numpy(np.stack([e.mask for e in batch]))[:, None]
    heat = torch.from_numpy(np.stack([e.heat for e in batch]))[:, None]
    centred = torch.tensor([e.centred for e in batch])
    size = torch.tensor([[e.size] * 3 for e in batch])
    malignant = torch.tensor([[e.malignant] for e in batch])
    assert output.size is not None and output.triage is not None
    probability = output.mask.sigmoid()
    overlap = 1 - (2 * (probability * mask).sum() + 1) / (probability.sum() + mask.sum() + 1)
    cross_entropy = functional.binary_cross_entropy_with_logits(output.mask, mask)
    size_loss = (functional.l1_loss(output.size, size, reduction="none").mean(1) * centred).sum() / 10
    malignancy_loss = (
        functional.binary_cross_entropy_with_logits(output.triage, malignant, reduction="none")[:, 0]
        * centred
    ).sum()
    head_loss = (size_loss + malignancy_loss) / centred.sum().clamp(min=1)
    return overlap + cross_entropy + _focal(output.centre, heat) + 0.3 * head_loss


def _focal(logits: Tensor, heat: Tensor) -> Tensor:
    """Penalty-reduced focal loss of centre heat maps (Zhou et al., "Objects as Points", 2019)."""
    probability = logits.sigmoid().clamp(1e-4, 1 - 1e-4)
    at_centre = heat > 0.9
    hit = ((1 - probability) ** 2 * probability.log())[at_centre].sum()
    miss = ((1 - heat) ** 4 * probability**2 * (1 - probability).log())[~at_centre].sum()
    return -(hit + miss) / at_centre.sum().clamp(min=1)


def train(steps: int) -> PivotNetwork:
    """Train a network on ``steps`` batches of patches, each of which it sees once."""
    torch.manual_seed(1)
    network = PivotNetwork(init_features=INIT_FEATURES, depth=DEPTH)
    for head, start in ((network.center_head, -4.0), (network.size_head, 10.0)):
        assert head is not None and head.conv.bias is not None
        nn.init.constant_(head.conv.bias, start)
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
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += loss.item()
            if step % 100 == 0:
                seconds = time.perf_counter() - started
                print(f"step {step}: loss {total / 100:.3f}, {seconds:.0f} s", flush=True)
                total = 0.0
    return network.eval()


def froc(engine: LungNoduleEngine, volumes: int) -> tuple[list[tuple[float, float]], float]:
    """Measure an engine on held-out phantoms.

    Returns:
        Pairs of false positives per scan and sensitivity at falling thresholds, and the AUC of malignancy.
    """
    hits: list[float] = []
    false_alarms: list[float] = []
    planted = 0
    scored: list[tuple[float, bool]] = []
    for seed in range(HELD_OUT_SEED, HELD_OUT_SEED + volumes):
        phantom = lung_phantom(seed)
        planted += len(phantom.nodules)
        heat, mask = engine.maps(network_input(phantom.values))
        peaks = local_maxima(heat, threshold=0.05, min_distance_mm=10, spacing=phantom.spacing)
        found = candidates(peaks, mask, spacing=phantom.spacing)
        malignancy = engine.malignancy(network_input(phantom.values), found)
        unmatched = list(phantom.nodules)
        for candidate, score in zip(found, malignancy, strict=True):
            near = [
                n
                for n in unmatched
                if np.linalg.norm(np.array(n.centre) - np.array(candidate.peak.voxel)) < n.diameter / 2
            ]
            if near:
                assert score is not None
                unmatched.remove(near[0])
                hits.append(candidate.peak.value)
                scored.append((score, near[0].malignant))
            else:
                false_alarms.append(candidate.peak.value)
    curve = [
        (
            round(sum(m >= t for m in false_alarms) / volumes, 3),
            round(sum(h >= t for h in hits) / planted, 3),
        )
        for t in (0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)
    ]
    return curve, float(roc_auc_score([m for _, m in scored], [s for s, _ in scored]))


def main() -> None:
    """Train, measure on held-out phantoms, and write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=1400)
    steps = parser.parse_args().steps
    network = train(steps)
    measure_and_write(network, steps)


def measure_and_write(network: PivotNetwork, steps: int) -> None:
    """Write the model, measure it in its engine, and write it again with the results."""
    card: dict[str, Any] = {
        "kind": "lung_nodule",
        "input_size": PATCH,
        "architecture": PivotArchitecture(init_features=INIT_FEATURES, depth=DEPTH),
        "labels": (
            CardLabel(
                name="Lung nodule",
                finding=Code(value="27925004", scheme="SCT", meaning="Nodule"),
                site=Code(value="39607008", scheme="SCT", meaning="Lung"),
                thresholds=Thresholds(low=0.3, high=0.5, critical=0.9),
            ),
        ),
        "volume": VolumePreprocessing(spacing=(1.0, 1.0, 1.0), low=CLIP_HU[0], high=CLIP_HU[1]),
        "training": (
            f"Trained on {steps * BATCH} patches of drawn lung phantoms and measured on {HELD_OUT} other phantoms. "
            "It has never seen a patient: a demonstration model, not for clinical use."
        ),
        "expects": lung_expectations(),
    }
    write_demonstration(network.state_dict(), **card)
    settings = EngineSettings(name="lung", kind="lung_nodule", model="demo", device="cpu")
    engine = LungNoduleEngine.load(settings, ModelStore(FOLDER))
    curve, malignancy = froc(engine, HELD_OUT)
    print("false positives a scan, sensitivity:", curve, "AUC of malignancy:", malignancy)
    write_demonstration(
        network.state_dict(),
        **card,
        froc=tuple(curve),
        auc={"Malignancy": round(malignancy, 4)},
    )


if __name__ == "__main__":
    main()
