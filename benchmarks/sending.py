"""Generated images and DCMTK's storescu, for the benchmarks of receivers."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    ExplicitVRLittleEndian,
    generate_uid,
)

from tests.peers.programs import program

ASSOCIATIONS = (1, 4, 16)
KINDS = {
    "CT": (300, 512, 512, CTImageStorage),
    "DX": (40, 2500, 2048, DigitalXRayImageStorageForPresentation),
}
"""How many, rows, columns, SOP class."""
DESCRIPTION = ", ".join(f"{count} {kind}" for kind, (count, *_) in KINDS.items()) + " images sent by storescu"

KEPT_FREE = 6_000_000_000
"""The node refuses images where the disk is nearly full."""


def check_room(folder: Path, files: Mapping[str, Sequence[Path]], times: int) -> None:
    """End here where the disk does not take all images so many times."""
    sent = sum(path.stat().st_size for paths in files.values() for path in paths)
    needed = sent * times + KEPT_FREE
    if shutil.disk_usage(folder).free < needed:
        raise SystemExit(
            f"{needed / 1e9:.0f} GB are needed in {folder.parent}: use fewer rounds or another TMPDIR."
        )


def generate(folder: Path, kind: str) -> list[Path]:
    """All images of a kind, as files in a new folder: one series of 16 bits allocated and 12 stored."""
    count, rows, columns, sop_class = KINDS[kind]
    folder.mkdir()
    random = np.random.default_rng(1)
    pixels = random.integers(0, 4096, (rows, columns), dtype=np.uint16)
    study, series = generate_uid(), generate_uid()
    paths: list[Path] = []
    for number in range(count):
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = sop_class
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = study, series
        dataset.PatientID, dataset.PatientName, dataset.Modality = "BENCH", "Bench^Mark", kind
        dataset.StudyDate, dataset.StudyTime, dataset.AccessionNumber, dataset.StudyID = (
            "20260101",
            "120000",
            "",
            "1",
        )
        dataset.SeriesNumber, dataset.InstanceNumber = 1, number + 1
        dataset.Rows, dataset.Columns = rows, columns
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 12, 11
        dataset.PixelRepresentation = 0
        dataset.PixelData = np.roll(pixels, number).tobytes()
        dataset["PixelData"].VR = "OW"
        paths.append(folder / f"{number:04}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def send(paths: list[Path], associations: int, port: int, ae_title: str, *options: str) -> float:
    """Seconds until the last of several storescu, each with its share of the files, has its last answer."""
    shares = [paths[i::associations] for i in range(associations)]
    command = [
        str(program("storescu")),
        *options,
        "-R",
        "-x=",
        "-pdu",
        "131072",
        "-aec",
        ae_title,
        "127.0.0.1",
        str(port),
    ]
    environment = {**os.environ, "TCP_NODELAY": "1"}
    started = time.perf_counter()
    senders = [
        subprocess.Popen(
            [*command, *share],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for share in shares
    ]
    for sender in senders:
        _, complaint = sender.communicate(timeout=300)
        if sender.returncode:
            raise RuntimeError(f"storescu failed: {complaint.decode(errors='replace')}")
    return time.perf_counter() - started
