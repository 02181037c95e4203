"""Wall and processor time by stage and peak memory of volumes, and loading beside a bare read.

Each size runs in a process of its own, so that its peak of memory is its own.

Usage: python -m benchmarks.volumes [--slices N ...]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.report import table, write_section
from inference.demo.volume_phantoms import lung_phantom, straight_geometry, write_ct_series
from inference.engines import engine_class
from inference.reading.header import quick_header
from inference.reading.pool import readers
from inference.settings import EngineSettings
from inference.store import ModelStore
from inference.store.expects import Expectations
from inference.volumes.volume import read_series
from sr_writer import ReportContext, write_results

SIZE = 512
SPACING = (1.0, 0.7, 0.7)
TILE = (50, 128, 128)
LARGEST_FOR_NODULES = 300
"""Nodules of more slices take a CPU longer than anyone waits."""
STAGES = ("prepare", "run", "conclude", "write")
HEADINGS = ("slices", "engine", *STAGES, "together", "peak memory, MB")
ROUNDS = 5


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--slices", type=int, nargs="+", default=[100, 300, 2000])
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        folder, kind, device = arguments.child
        print(json.dumps(_stages(Path(folder), kind, device)))
        return
    rows: list[tuple[str, ...]] = []
    loading: list[tuple[str, ...]] = []
    for count in arguments.slices:
        with tempfile.TemporaryDirectory(prefix="overread-bench-") as folder:
            write_series(Path(folder), count)
            bare, load = _loading(Path(folder))
            loading.append((str(count), f"{bare:.3f}", f"{load:.3f}", f"{load / bare:.2f}"))
            rows += [stages(Path(folder), kind, count, "cpu")[:-1] for kind in kinds(count)]
    body = (
        f"CT of {SIZE} x {SIZE} with 16 bit, generated; on the CPU, demonstration models. Seconds by stage, then "
        "those of the processor, with the reader processes; the stages follow each other. "
        "hybrid_volume judges every slice with its neighbours, lung_nodule resamples to 1 mm and slides windows "
        "of 48 voxels with overlap 0.25.\n\n"
        + table(HEADINGS, rows)
        + f"\n\nReading a series into Hounsfield units, medians of {ROUNDS} rounds: a bare read of the same bytes "
        "with NumPy's conversion to 16-bit Hounsfield units, and the whole loading with headers, sorting, checks.\n\n"
        + table(("slices", "bare read, s", "loading, s", "ratio"), loading)
    )
    write_section("Volumes", body)


def kinds(count: int) -> tuple[str, ...]:
    """The engines that so many slices are measured with."""
    return ("hybrid_volume", "lung_nodule") if count <= LARGEST_FOR_NODULES else ("hybrid_volume",)


def write_series(folder: Path, count: int) -> None:
    """A series of a lung that repeats."""
    tile = lung_phantom(7, TILE, SPACING, nodules=2).values
    block = np.tile(tile, (1, SIZE // TILE[1], SIZE // TILE[2]))
    for start in range(0, count, TILE[0]):
        part = block[: min(TILE[0], count - start)]
        geometry = straight_geometry(part.shape, SPACING)
        geometry.positions[:, 2] = np.arange(start, start + len(part)) * SPACING[0]
        for number, path in enumerate(
            write_ct_series(folder / f"{start:05d}", part, geometry, body_part="CHEST", seed="volume"), start
        ):
            path.rename(folder / f"{number:05d}.dcm")


def _loading(folder: Path) -> tuple[float, float]:
    """Seconds of a bare read with conversion, and of the whole loading."""
    files = sorted(folder.glob("*.dcm"))
    header = quick_header(files[0])
    assert header is not None

    def bare() -> None:
        volume = np.empty((len(files), SIZE, SIZE), dtype=np.int16)
        for target, path in zip(volume, files, strict=True):
            with path.open("rb") as file:
                file.seek(header.pixel_offset)
                stored = np.frombuffer(file.read(SIZE * SIZE * 2), dtype="<i2").reshape(SIZE, SIZE)
            np.subtract(stored, np.int16(1024), out=target)

    def whole() -> None:
        assert read_series(files).volumes

    return _median(bare), _median(whole)


def _median(run: Callable[[], None]) -> float:
    run()
    took = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        took.append(time.perf_counter() - started)
    return statistics.median(took)


def stages(folder: Path, kind: str, count: int, device: str) -> tuple[str, ...]:
    """A row of the table: seconds by stage of an engine in a process of its own, then peaks of memory."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.volumes", "--child", str(folder), kind, device],
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    seconds = (f"{wall:.2f} / {cpu:.2f}" for wall, cpu in found["stages"])
    return (str(count), kind, *seconds, f"{found['memory']:.0f}", f"{found['device_memory']:.0f}")


def _stages(folder: Path, kind: str, device: str) -> dict[str, Any]:
    import torch

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    options = {"overlap": 0.25} if kind == "lung_nodule" else {}
    settings = EngineSettings(name="x", kind=kind, model="demo", device=device, options=options)
    engine: Any = engine_class(kind).load(settings, ModelStore(folder / "models"))
    files = sorted(folder.glob("*.dcm"))
    readers().warm()
    # The hybrid demonstration model is for heads, and would refuse this chest; here it only has to take its time.
    engine.card = engine.card.model_copy(update={"expects": Expectations()})
    marks = [_clocks()]
    cases: Any = engine.prepare(files)
    marks.append(_clocks())
    outputs = engine.run(cases)
    marks.append(_clocks())
    analyses = [engine.conclude(case, output) for case, output in zip(cases, outputs, strict=True)]
    marks.append(_clocks())
    written = write_results(
        analyses, ReportContext(job_seed="bench", engine_name="x", content_datetime=datetime.now(UTC))
    )
    for item in written:
        item.dataset.save_as(folder / f"{item.dataset.SOPInstanceUID}.out", enforce_file_format=True)
    marks.append(_clocks())
    memory = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024
    took = [
        tuple(b - a for a, b in zip(*pair, strict=True)) for pair in (*pairwise(marks), (marks[0], marks[-1]))
    ]
    return {
        "stages": took,
        "memory": memory,
        "device_memory": torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else 0.0,
    }


def _clocks() -> tuple[float, float]:
    """The wall clock, and the processor seconds of this process with the children that still run."""
    seconds = time.process_time()
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except FileNotFoundError:  # a process that has just ended
            continue
        if int(fields[1]) == os.getpid():
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), seconds


if __name__ == "__main__":
    main()
