"""Seconds from the last C-STORE response to the report's arrival at the PACS, for a single chest X-ray.

Measured for each backend of the CPU, on a machine that is otherwise idle and beside one process that never sleeps.

Usage: python -m benchmarks.latency [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from operator import contains
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

from benchmarks.report import table, write_section
from handlers.sending.sender import Sender
from handlers.settings import Destination
from inference.demo.phantoms import phantom_dicom
from tests.peers.files import file_to_send
from tests.peers.node import Node

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
BACKENDS = ("openvino", "torch")
ENGINE = """
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"
device = "cpu"
backend = "{backend}"

[[route]]
name = "chest x-rays"
match = {{ Modality = ["CR", "DX"] }}
engines = ["cxr"]
destinations = ["pacs"]
"""
Row = tuple[str, ...]


class Pacs:
    """A C-STORE SCP that notes when each study's report and overlays arrive."""

    def __init__(self) -> None:
        self.reports: dict[str, float] = {}
        self.overlays: dict[str, list[float]] = {}
        self.changed = threading.Condition()
        self.entity = AE(ae_title="PACS")
        self.entity.supported_contexts = AllStoragePresentationContexts
        server = self.entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert server is not None
        self.port = server.server_address[1]
        self.stop = server.shutdown

    def _store(self, event: Event) -> int:
        now = time.perf_counter()
        study = str(event.dataset.StudyInstanceUID)
        with self.changed:
            if event.request.AffectedSOPClassUID == COMPREHENSIVE_3D_SR:
                self.reports[study] = now
            else:
                self.overlays.setdefault(study, []).append(now)
            self.changed.notify_all()
        return 0x0000


@contextmanager
def busy_neighbour() -> Iterator[None]:
    """Run a process that computes without a pause, which the system may put on any core."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    """Send studies one after another, each when the former has come back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=40)
    runs = parser.parse_args().runs
    pacs = Pacs()
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        for backend in BACKENDS:
            rows += _measure(Path(scratch) / backend, backend, pacs, runs)
    pacs.stop()
    body = (
        f"{runs} studies of one generated radiograph each (1024 x 1024, 12 bit), sent one after another to a node "
        "with the demonstration model; each makes one report and one overlay. The busy neighbour is one process "
        "that computes without a pause.\n\n"
        + table(("seconds", "backend", "neighbour", "median", "90 %", "95 %", "longest"), rows)
    )
    write_section("Latency", body)


def _measure(folder: Path, backend: str, pacs: Pacs, runs: int) -> list[Row]:
    """The rows of one backend: a node of its own, alone and then beside a busy neighbour."""
    rows: list[Row] = []
    destinations = [("pacs", "PACS", pacs.port)]
    with Node(folder, destinations, engine=False, extra=ENGINE.format(backend=backend)) as node:
        _send(node, pacs, 0)  # waits for the model, and warms the node up
        for busy in (False, True):
            with busy_neighbour() if busy else nullcontext():
                times = [_send(node, pacs, 1 + busy * runs + number) for number in range(runs)]
            summaries = [job["summary"] for job in node.jobs()[-runs:]]
            condition = backend, "busy" if busy else "none"
            rows += [
                _row("to the report at the PACS", condition, [report for report, _ in times]),
                _row("to the first overlay at the PACS", condition, [overlay for _, overlay in times]),
                _row(
                    "inference with Grad-CAM", condition, [s["inference_time_ms"] / 1000 for s in summaries]
                ),
                _row("writing and syncing", condition, [s["write_ms"] / 1000 for s in summaries]),
            ]
    return rows


def _send(node: Node, pacs: Pacs, number: int) -> tuple[float, float]:
    """Send a study; the seconds from its last C-STORE response to its report and to its overlay at the PACS."""
    path, dataset = _study(node.folder, number)
    file = file_to_send(path, dataset)
    study = str(dataset.StudyInstanceUID)
    receiver = Destination(name="node", ae_title="OVERREAD", host="127.0.0.1", port=node.port)
    for result in Sender(receiver, "BENCH").send([file]):
        assert result.delivered, result.reason
        sent = time.perf_counter()
    with pacs.changed:
        for arrivals in (pacs.reports, pacs.overlays):
            assert pacs.changed.wait_for(partial(contains, arrivals, study), 120), f"nothing came: {node.log}"
        return pacs.reports[study] - sent, max(pacs.overlays[study]) - sent


def _study(folder: Path, number: int) -> tuple[Path, pydicom.Dataset]:
    """A study with one finding at most, so that there is one overlay."""
    dataset = phantom_dicom(1000 + number, (False, False, number % 2 == 0, False, False))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path, dataset


def _row(what: str, condition: tuple[str, str], seconds: list[float]) -> Row:
    ordered = sorted(seconds)
    figures = (
        statistics.median(ordered),
        *(ordered[min(len(ordered) - 1, int(share * len(ordered)))] for share in (0.9, 0.95)),
        ordered[-1],
    )
    return what, *condition, *(f"{figure:.3f}" for figure in figures)


if __name__ == "__main__":
    main()
