"""The chest_xray engine and the engines for volumes on a CUDA device; ends at once where there is none.

Usage: python -m benchmarks.cuda [--slices N ...]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torchxrayvision as xrv
from safetensors.torch import load_file
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.inference import LABELS, SEED, Images, seeded_store
from benchmarks.report import table, write_section
from benchmarks.volumes import HEADINGS, kinds, stages, write_series
from inference.demo.phantoms import phantom_dicom
from inference.engines import engine_class
from inference.networks import build_network
from inference.running.calibration import sigmoid
from inference.running.classifier import Classifier
from inference.running.device import place
from inference.running.recorded import LARGEST_BATCH
from inference.settings import EngineSettings
from inference.store import ModelStore
from tests.seeded import seeded_densenet

BATCHES = (1, 8, 32, 128, 256)
CASES = (1, 8, 32)
"""Batches of prepared cases for the whole engine."""
PRECISIONS = ("fp32", "fp16", "bf16")
SECONDS = 0.4
"""How long each measurement goes on."""
PRODUCT = 8192
"""Rows and columns of the matrices whose product shows what the device can do."""


def main() -> None:
    """Measure and write the sections."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300, 2000])
    slices = parser.parse_args().slices
    if not torch.cuda.is_available():
        print("No CUDA device: nothing to measure.")
        return
    name = torch.cuda.get_device_name(0)
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        _inference(name, Path(scratch))
        _volumes(name, Path(scratch), slices)


def _inference(name: str, folder: Path) -> None:
    store = seeded_store(folder / "models", seeded_densenet(SEED))
    ceiling = _matrix_flops()
    images = (np.random.default_rng(1).random((max(BATCHES), 1, 224, 224), dtype=np.float32) * 2 - 1) * 1024
    classifiers = {precision: _classifier(store, precision) for precision in PRECISIONS}
    with FlopCounterMode(display=False) as counter:
        classifiers["fp32"].run(torch.from_numpy(images[:1]).cuda())
    flops = counter.get_total_flops()
    probabilities = {p: sigmoid(c.classify(images[:32]).logits) for p, c in classifiers.items()}
    rows = [
        (
            precision,
            str(size),
            *_rates(classifier, images[:size], flops / ceiling),
            f"{np.abs(probabilities[precision] - probabilities['fp32']).max():.4f}",
        )
        for precision, classifier in classifiers.items()
        for size in BATCHES
    ]
    headings = (
        "precision",
        "batch",
        "network alone, images/s",
        "probabilities, images/s",
        "with Grad-CAM, images/s",
        "of the ceiling",
        "off",
    )
    body = (
        f"{name}, PyTorch {torch.__version__}. DenseNet121, 224 x 224, seeded weights, {flops / 1e9:.1f} GFLOP an "
        "image. The network alone has its images on the device and launches every kernel; otherwise images and "
        f"results go over the bus each time, and batches up to {LARGEST_BATCH} run as recorded graphs. Grad-CAM is "
        f"for {LABELS} labels. The ceiling is a product of bf16 matrices of {PRODUCT} x {PRODUCT}: "
        f"{ceiling / 1e12:.0f} TFLOP/s. The last column is the largest difference of a probability from fp32; an "
        "engine refuses more than 0.01.\n\n" + table(headings, rows) + "\n\n" + _engine(folder, store)
    )
    write_section("Inference on CUDA", body)


def _classifier(store: ModelStore, precision: str) -> Classifier:
    """Not by its load, which refuses a precision that is too far off: here that is a column."""
    stored = store.get("seeded")
    network = build_network(stored.card)
    network.load_weights(load_file(stored.weights))
    settings = EngineSettings(name="x", kind="chest_xray", model="seeded", device="cuda", precision=precision)
    return Classifier(network, place(settings))


def _rates(classifier: Classifier, images: Images, shortest: float) -> tuple[str, ...]:
    """Images a second alone, with copies, with explanations, and the share of what the device can do.

    ``shortest`` is the time in seconds that an image takes at the device's ceiling.
    """
    on_device = torch.from_numpy(images).cuda().contiguous(memory_format=torch.channels_last)
    targets = [(row, output) for row in range(len(images)) for output in range(LABELS)]
    alone, plain, explained = (
        _seconds(run) / len(images)
        for run in (
            lambda: classifier.run(on_device),
            lambda: classifier.classify(images),
            lambda: classifier.explain(classifier.classify(images), targets),
        )
    )
    cells = (f"{1 / seconds:.0f} ({seconds * 1000:.2f} ms)" for seconds in (alone, plain, explained))
    return (*cells, f"{100 * shortest / plain:.1f} %")


def _matrix_flops() -> float:
    """FLOP/s of a large product of bf16 matrices of random numbers."""
    a, b = (torch.randn(PRODUCT, PRODUCT, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * PRODUCT**3 / _seconds(lambda: a @ b)


def _seconds(run: Callable[[], object]) -> float:
    """The median of as many runs as fit, after three warm ones."""
    for _ in range(3):
        run()
    took: list[float] = []
    ended = time.perf_counter() + SECONDS
    while time.perf_counter() < ended or len(took) < 3:
        torch.cuda.synchronize()
        started = time.perf_counter()
        run()
        torch.cuda.synchronize()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def _engine(folder: Path, store: ModelStore) -> str:
    """The whole engine: from prepared cases to findings with heat maps, and one radiograph from its file on."""
    paths = [folder / f"{number}.dcm" for number in range(max(CASES))]
    for number, path in enumerate(paths):
        phantom_dicom(number).save_as(path, enforce_file_format=True)
    shown = {
        name: {"low": 0.5, "high": 0.999, "critical": 0.9999} for name in xrv.datasets.default_pathologies
    }
    settings = EngineSettings(
        name="x", kind="chest_xray", model="seeded", device="cuda", options={"thresholds": shown}
    )
    engine = engine_class("chest_xray").load(settings, store)
    cases = engine.prepare(paths)
    maps = sum(len(analysis.heatmaps) for analysis in engine.infer(cases)) / len(cases)
    rows: list[tuple[str, ...]] = []
    for size in CASES:
        seconds = _seconds(partial(engine.infer, cases[:size])) / size
        rows.append((str(size), f"{1 / seconds:.0f} ({seconds * 1000:.2f} ms)"))
    reading = _seconds(lambda: engine.prepare(paths[:1]))
    whole = _seconds(lambda: engine.infer(engine.prepare(paths[:1])))
    return (
        f"The engine from prepared cases to findings with heat maps, radiographs of 1024 x 1024 with 12 bits, fp32, "
        f"{maps:.1f} heat maps a case:\n\n"
        + table(("batch", "cases/s"), rows)
        + f"\n\nOne radiograph by the engine from its file to findings with heat maps: {whole * 1000:.1f} ms, of which "
        f"{reading * 1000:.1f} ms are reading and preprocessing."
    )


def _volumes(name: str, folder: Path, slices: list[int]) -> None:
    rows: list[tuple[str, ...]] = []
    for count in slices:
        series = folder / str(count)
        write_series(series, count)
        rows += [stages(series, kind, count, "cuda") for kind in kinds(count)]
    body = (
        f"{name}. The same series, engines and options as under Volumes, fp32; peak of the device's memory is what "
        "PyTorch had allocated.\n\n" + table((*HEADINGS, "peak of the device, MB"), rows)
    )
    write_section("Volumes on CUDA", body)


if __name__ == "__main__":
    main()
