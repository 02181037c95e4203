"""Processor time from the analysis of a radiograph to the encoded report and overlay, in one thread.

Usage: python -m benchmarks.reports [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, TypeVar

import torch

from benchmarks.report import table, write_section
from inference.demo.phantoms import phantom_dicom
from inference.engines import engine_class
from inference.findings import Analysis
from inference.settings import EngineSettings
from inference.store import ModelStore
from sr_writer import ReportContext, WrittenObject, encode, result_attributes
from sr_writer.overlay import write_overlay
from sr_writer.report import Overlays, write_report
from sr_writer.shown import shown_pictures
from sr_writer.source import SourceHeader

PATIENTS = 8
WARM_UP = 2 * PATIENTS
PARTS = (
    "read the source's header",
    "draw and describe the overlay",
    "compose the report",
    "encode both files",
    "attributes for queries",
)

Form = Literal["none", "jpeg"]
Made = TypeVar("Made")


def main() -> None:
    """Make objects for different patients in turn, uncompressed and compressed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        analyses = _analyses(Path(scratch))
        forms: tuple[Form, ...] = ("none", "jpeg")
        times: dict[Form, list[list[float]]] = {form: [] for form in forms}
        sizes: dict[Form, list[int]] = {form: [] for form in forms}
        for run in range(WARM_UP + runs):
            for form in forms:
                taken, size = _make(analyses[run % PATIENTS], run, form)
                if run >= WARM_UP:
                    times[form].append(taken)
                    sizes[form].append(size)
    rows = [
        (part, *(_milliseconds([taken[number] for taken in times[form]]) for form in forms))
        for number, part in enumerate(PARTS)
    ]
    rows.append(("together", *(_milliseconds([sum(taken) for taken in times[form]]) for form in forms)))
    megabytes = [f"{statistics.median(sizes[form]) / 1e6:.2f}" for form in forms]
    body = (
        f"{runs} times the results of a generated radiograph (1024 x 1024, demonstration model, one overlay), of "
        f"{PATIENTS} patients in turn, from the analysis to the bytes of both files; median milliseconds of processor "
        "time of one thread, 90 % in brackets. Models and labels have been written before, the patients' objects have "
        "not.\n\n"
        + table(("ms", "uncompressed", "JPEG"), rows)
        + f"\n\nAn overlay has {megabytes[0]} MB uncompressed and {megabytes[1]} MB as JPEG."
    )
    write_section("Reports", body)


def _analyses(folder: Path) -> list[Analysis]:
    """An analysis with one overlay for each patient."""
    settings = EngineSettings(name="cxr", kind="chest_xray", model="demo", device="cpu", backend="torch")
    engine = engine_class("chest_xray").load(settings, ModelStore(folder / "models"))
    files = []
    for number in range(PATIENTS):
        files.append(folder / f"{number}.dcm")
        present = (False, False, number % 2 == 0, False, False)
        phantom_dicom(1000 + number, present).save_as(files[-1], enforce_file_format=True)
    cases = [case for case in engine.prepare(files) if hasattr(case, "source")]
    return [next(iter(engine.infer([case]))) for case in cases]


def _make(analysis: Analysis, number: int, form: Form) -> tuple[list[float], int]:
    """Seconds of processor time by part, and the bytes of the overlay's file."""
    context = ReportContext(
        job_seed=f"benchmark {number}",
        engine_name="cxr",
        content_datetime=datetime(2026, 1, 1, tzinfo=UTC),
        overlay_compression=form,
    )
    taken: list[float] = []
    source = _timed(taken, lambda: SourceHeader(analysis.source))
    (shown,) = shown_pictures(analysis)
    overlay = _timed(taken, lambda: write_overlay(analysis, shown, source, context, number=1))
    overlays: Overlays = {(0, shown.label.name): [overlay]}
    report = _timed(taken, lambda: write_report([analysis], [source], overlays, {}, context))
    written = (
        WrittenObject(kind="sr", dataset=report),
        WrittenObject(kind="overlay", dataset=overlay),
    )
    files = _timed(taken, lambda: [encode(item) for item in written])
    _timed(taken, lambda: [result_attributes(item.dataset) for item in written])
    return taken, len(files[1])


def _timed(taken: list[float], make: Callable[[], Made]) -> Made:
    """What a part makes; its processor time is added to ``taken``."""
    started = time.process_time()
    made = make()
    taken.append(time.process_time() - started)
    return made


def _milliseconds(seconds: list[float]) -> str:
    ordered = sorted(seconds)
    return f"{1000 * statistics.median(ordered):.1f} ({1000 * ordered[int(0.9 * (len(ordered) - 1))]:.1f})"


if __name__ == "__main__":
    main()
