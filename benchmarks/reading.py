"""Milliseconds for reading a radiograph in the process itself and by way of the reader process, turn by turn.

Usage: python -m benchmarks.reading [--rounds N]
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless, JPEGLSLossless, RLELossless, generate_uid

from benchmarks.report import table, write_section
from inference.demo.phantoms import phantom_dicom
from inference.parsing.pixels import parsed_image
from inference.reading.files import read_image
from inference.reading.pool import close_readers
from inference.reading.stored import StoredImage

LARGE = 3000
SYNTAXES = {"RLE": RLELossless, "JPEG-LS": JPEGLSLossless, "JPEG 2000": JPEG2000Lossless}
READS: dict[str, Callable[[Path], StoredImage]] = {
    "in the process": parsed_image,
    "by the reader": read_image,
}


def main() -> None:
    """Measure and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    rows: list[tuple[str, ...]] = []
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as folder:
        for name, path, size in _files(Path(folder)):
            took: dict[str, list[float]] = {kind: [] for kind in READS}
            for turn in range(-1, rounds):
                for kind, read in READS.items():
                    started = time.perf_counter()
                    read(path)
                    if turn >= 0:
                        took[kind].append((time.perf_counter() - started) * 1000)
            plain, ours = (statistics.median(took[kind]) for kind in READS)
            rows.append((name, size, f"{plain:.1f}", f"{ours:.1f}", f"{ours - plain:+.1f}"))
    close_readers()
    body = (
        f"Generated radiographs of 16 bits allocated, turn by turn in one run, medians of {rounds} rounds, "
        "milliseconds. The reader process parses and decodes; the worker copies the pixels out of its memory.\n\n"
        + table(("coding", "pixels", *READS, "difference"), rows)
    )
    write_section("Reading", body)


def _files(folder: Path) -> list[tuple[str, Path, str]]:
    small = phantom_dicom(1, (True, False, False, False, False))
    large = copy.deepcopy(small)
    repeats = -(-LARGE // min(small.Rows, small.Columns))
    cells = np.tile(small.pixel_array, (repeats, repeats))[:LARGE, :LARGE]
    large.Rows = large.Columns = LARGE
    large.PixelData = np.ascontiguousarray(cells).tobytes()
    found: list[tuple[str, Path, str]] = []
    for dataset in (small, large):
        size = f"{dataset.Columns} x {dataset.Rows}"
        for name, syntax in {"native": None, **SYNTAXES}.items():
            path = folder / f"{generate_uid()}.dcm"
            dataset.save_as(path, enforce_file_format=True)
            if syntax is not None:
                coded = pydicom.dcmread(path)
                coded.compress(syntax, generate_instance_uid=False)
                coded.save_as(path)
            found.append((name, path, size))
    return found


if __name__ == "__main__":
    main()
