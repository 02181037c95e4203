"""Images a second of the chest_xray engine, beside torchxrayvision's model in a plain loop and in a batch.

The references run in the same process: torchxrayvision's DenseNet121 called image by image, or batch by
batch, with pytorch-grad-cam for explanations. All with the same seeded weights.

Usage: python -m benchmarks.inference [--images N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torchxrayvision as xrv
from numpy.typing import NDArray
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from benchmarks.report import table, write_section
from inference.importing.torchxrayvision import torchxrayvision_model
from inference.running.classifier import Classifier
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.seeded import seeded_densenet

SEED = 3
BATCHES = (1, 8, 32)
LABELS = 5
ROUNDS = 2
EXPLAINED = 32
"""Images of the explained rows; the references need about a second for each."""
Images = NDArray[np.float32]


class WithLastActivation(torch.nn.Module):
    """torchxrayvision's forward pass with its last ReLU as a module, as pytorch-grad-cam needs a target layer."""

    def __init__(self, model: xrv.models.DenseNet) -> None:
        super().__init__()
        self.features, self.classifier = model.features, model.classifier
        self.last = torch.nn.ReLU()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(self.classifier(self.last(self.features(images)).mean(dim=(2, 3))))


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=32)
    count = parser.parse_args().images
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    original = seeded_densenet(SEED)
    images = (np.random.default_rng(1).random((count, 1, 224, 224), dtype=np.float32) * 2 - 1) * 1024
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as folder:
        store = seeded_store(Path(folder), original)
        rows = _measure(original, store, images)
        memory = _memory(Path(folder))
    body = (
        f"DenseNet121, 224 x 224, fp32, seeded weights, {count} images, means of {ROUNDS} rounds; explanations are "
        f"Grad-CAM for {LABELS} labels of each image. Milliseconds an image (images a second), and how many times as "
        "fast as the plain loop of the same row.\n\n"
        + table(("", "batch", "plain loop", "plain batch", "overread torch", "overread openvino"), rows)
        + f"\n\nPeak resident memory of a process that loads the engine and analyses batches of 8: {memory:.0f} MB."
    )
    write_section("Inference", body)


def seeded_store(folder: Path, network: xrv.models.DenseNet) -> ModelStore:
    """A model store with the network under the name ``seeded``."""
    store = ModelStore(folder)
    facts = {"targets": list(xrv.datasets.default_pathologies)}
    store.add(torchxrayvision_model(dict(network.state_dict()), facts), "seeded", origin="benchmark")
    return store


def _measure(original: xrv.models.DenseNet, store: ModelStore, images: Images) -> list[tuple[str, ...]]:
    ours = {
        backend: Classifier.load(
            EngineSettings(name="x", kind="chest_xray", model="seeded", device="cpu", backend=backend),
            store.get("seeded"),
        )
        for backend in ("torch", "openvino")
    }
    reference = WithLastActivation(original)
    targets = [ClassifierOutputTarget(output) for output in range(LABELS)]

    def plain(batch: Images) -> None:
        with torch.no_grad():
            original(torch.from_numpy(batch))

    def plain_explained(batch: Images) -> None:
        with GradCAM(model=reference, target_layers=[reference.last]) as cam:
            for target in targets:
                cam(torch.from_numpy(batch), targets=[target] * len(batch))

    def engine(backend: str, explained: bool) -> Callable[[Images], None]:
        def run(batch: Images) -> None:
            found = ours[backend].classify(batch)
            if explained:
                ours[backend].explain(found, [(r, o) for r in range(len(batch)) for o in range(LABELS)])

        return run

    rows: list[tuple[str, ...]] = []
    for explained in (False, True):
        reference_run = plain_explained if explained else plain
        chosen = images[:EXPLAINED] if explained else images
        loop = _seconds(reference_run, chosen, 1)
        for size in BATCHES:
            if size > len(chosen):
                continue
            batch = _seconds(reference_run, chosen, size)
            by_backend = [_seconds(engine(backend, explained), chosen, size) for backend in ours]
            cells = [_cell(seconds, loop) for seconds in (loop, batch, *by_backend)]
            rows.append(("with Grad-CAM" if explained else "probabilities", str(size), *cells))
    return rows


def _seconds(run: Callable[[Images], None], images: Images, size: int) -> float:
    """Seconds an image, the median of some rounds after a warm one."""
    run(images[:size])
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        for start in range(0, len(images), size):
            run(images[start : start + size])
        took.append((time.perf_counter() - started) / len(images))
    return statistics.median(took)


def _cell(seconds: float, loop: float) -> str:
    return f"{seconds * 1000:.1f} ms ({1 / seconds:.0f}/s), {loop / seconds:.1f} x"


WORKER = """
import sys
from pathlib import Path
import numpy as np
from PIL import Image
from inference.engines import engine_class
from inference.settings import EngineSettings
from inference.store import ModelStore
folder = Path(sys.argv[1])
settings = EngineSettings(name="x", kind="chest_xray", model="seeded", device="cpu")
engine = engine_class("chest_xray").load(settings, ModelStore(folder))
for n in range(8):
    pixels = np.random.default_rng(n).integers(0, 255, (2048, 2048), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{n}.png")
for _ in range(3):
    engine.infer(engine.prepare([folder / f"{n}.png" for n in range(8)]))
# Not ru_maxrss: the kernel lets a process inherit that from the one that started it.
status = Path("/proc/self/status").read_text()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def _memory(folder: Path) -> float:
    """Peak resident memory in MB of a process of its own that runs the engine as a worker does."""
    done = subprocess.run(
        [sys.executable, "-c", WORKER, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[1],
    )
    return float(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    main()
