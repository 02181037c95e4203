"""Seconds from the last C-STORE response to the report's arrival at the PACS, for a single chest X-ray.

Usage: python -m benchmarks.latency [--runs N]
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import threading
import time
from functools import partial
from operator import contains
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

from benchmarks.report import table, write_section
from handlers.sending.sender import FileToSend, Sender
from handlers.settings import Destination
from inference.demo.phantoms import phantom_dicom
from tests.peers.node import Node

COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"


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


def main() -> None:
    """Send studies one after another, each when the former has come back."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=20)
    runs = parser.parse_args().runs
    pacs = Pacs()
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        folder = Path(scratch)
        with Node(folder / "node", [("pacs", "PACS", pacs.port)]) as node:
            receiver = Destination(name="node", ae_title="OVERREAD", host="127.0.0.1", port=node.port)
            reports, everything = [], []
            for number in range(runs + 1):
                path, dataset = _study(folder, number)
                file = FileToSend(
                    path=path,
                    sop_class_uid=str(dataset.SOPClassUID),
                    sop_instance_uid=str(dataset.SOPInstanceUID),
                    transfer_syntax_uid=str(dataset.file_meta.TransferSyntaxUID),
                )
                study = str(dataset.StudyInstanceUID)
                for result in Sender(receiver, "BENCH").send([file]):
                    assert result.delivered, result.reason
                    sent = time.perf_counter()
                with pacs.changed:
                    arrived = pacs.changed.wait_for(partial(contains, pacs.reports, study), 60)
                    assert arrived, f"no report: {node.log}"
                    assert pacs.changed.wait_for(partial(contains, pacs.overlays, study), 60)
                    report, overlay = pacs.reports[study], max(pacs.overlays[study])
                if number:  # the first one warms the node up
                    reports.append(report - sent)
                    everything.append(max(report, overlay) - sent)
            jobs = [job for job in node.jobs() if job["state"] == "succeeded"][1:]
    pacs.stop()
    inference = [job["summary"]["inference_time_ms"] for job in jobs]
    writing = [job["summary"]["write_ms"] for job in jobs]
    body = (
        f"{runs} studies of one generated radiograph each (1024 x 1024, 12 bit), sent one after another to a node "
        "with the demonstration model; each makes one report and one overlay.\n\n"
        + table(
            ("seconds", "median", "90 %", "longest"),
            [
                _row("last C-STORE response to the report at the PACS", reports),
                _row("last C-STORE response to the first overlay at the PACS", everything),
                _row("inference with Grad-CAM", [ms / 1000 for ms in inference]),
                _row("writing and syncing report and overlay", [ms / 1000 for ms in writing]),
            ],
        )
    )
    write_section("Latency", body)


def _study(folder: Path, number: int) -> tuple[Path, pydicom.Dataset]:
    """A study with one finding at most, so that there is one overlay."""
    dataset = phantom_dicom(1000 + number, (False, False, number % 2 == 0, False, False))
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    path = folder / f"{number}.dcm"
    dataset.save_as(path, enforce_file_format=True)
    return path, dataset


def _row(name: str, seconds: list[float]) -> tuple[str, str, str, str]:
    ordered = sorted(seconds)
    ninety = ordered[min(len(ordered) - 1, int(0.9 * len(ordered)))]
    return name, f"{statistics.median(ordered):.3f}", f"{ninety:.3f}", f"{ordered[-1]:.3f}"


if __name__ == "__main__":
    main()
