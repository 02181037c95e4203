"""Studies of one generated radiograph each, made and sent to a node, for the benchmarks of whole nodes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pydicom
from pydicom.uid import generate_uid

from handlers.sending.sender import FileToSend, Sender
from handlers.settings import Destination
from inference.demo.phantoms import phantom_dicom
from tests.peers.files import file_to_send

PICTURES = 8
"""Different radiographs; every second one has a nodule, so that there is one overlay at most."""
AT_ONCE = 50
"""Studies in one association, and on the disk before they are sent."""
TRIES = 5
"""How often an image is sent at most."""
SMALL = 4
"""A small radiograph has every fourth row and column: 256 x 256."""


class Radiographs:
    """Sends to a node on this machine; its files are in ``folder`` until they are sent.

    Radiographs are 1024 x 1024 with 12 bits, and 256 x 256 where they are ``small``.
    """

    def __init__(self, folder: Path, port: int, *, small: bool) -> None:
        self.folder = folder
        self._sender = Sender(
            Destination(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port), "BENCH"
        )
        self._pictures = [
            phantom_dicom(1000 + number, (False, False, number % 2 == 0, False, False))
            for number in range(PICTURES)
        ]
        if small:
            for dataset in self._pictures:
                _make_small(dataset)
        self._number = 0

    def send(self, count: int, **attributes: object) -> list[str]:
        """Send so many; their Study Instance UIDs, in order.

        ``attributes`` are set in each by keyword, and stay for those that are sent later.
        """
        studies: list[str] = []
        while len(studies) < count:
            files = [self._write(attributes) for _ in range(min(AT_ONCE, count - len(studies)))]
            self._deliver([file for _, file in files])
            for study, file in files:
                studies.append(study)
                file.path.unlink()
        return studies

    def _deliver(self, files: Sequence[FileToSend]) -> None:
        """Send again what a busy node has not acknowledged, as a modality does."""
        for _ in range(TRIES):
            failed = [result for result in self._sender.send(files) if not result.delivered]
            if not failed:
                return
            files = [result.file for result in failed]
        raise RuntimeError(f"{len(failed)} images are not received: {failed[0].reason}")

    def _write(self, attributes: dict[str, object]) -> tuple[str, FileToSend]:
        dataset = self._pictures[self._number % PICTURES]
        self._number += 1
        dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"{self._number}.dcm"
        dataset.save_as(path, enforce_file_format=True)
        return str(dataset.StudyInstanceUID), file_to_send(path, dataset)


def _make_small(dataset: pydicom.Dataset) -> None:
    pixels = dataset.pixel_array[::SMALL, ::SMALL]
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData = pixels.tobytes()
    dataset.ImagerPixelSpacing = [spacing * SMALL for spacing in dataset.ImagerPixelSpacing]
