"""Reports and overlays to a PACS: one at a time, and the courier with many in the outbox.

Usage: python -m benchmarks.delivery [--rounds N] [--objects N]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    UID,
    Comprehensive3DSRStorage,
    ExplicitVRLittleEndian,
    SecondaryCaptureImageStorage,
    generate_uid,
)
from pynetdicom import AE, _config
from pynetdicom.presentation import build_context

from benchmarks.report import table, write_section
from db.database import Database, DatabaseSettings
from db.outbox import Outbox
from db.queue import Queue
from db.records import Delivery, DeliveryOutcome, Done, NewResult, Sent
from handlers.audit.trail import AuditTrail
from handlers.sending.association import Timeouts
from handlers.sending.requestor import RequestedAssociation, open_storage_association
from handlers.sending.sender import FileToSend, contexts_for, kinds_of, send_file
from handlers.settings import Destination
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.processes.process import make_folders
from node.roles.courier import DestinationCourier
from tests.db.conftest import queued_job
from tests.peers.dcmtk import Storescp
from tests.peers.waiting import answers, free_port, wait_until

TITLE = "PACS"
SIZES = {"report, 20 kB": 20_000, "overlay, 3.1 MB": 1024 * 1024 * 3}
CLASSES = (Comprehensive3DSRStorage, SecondaryCaptureImageStorage)
ASSOCIATIONS = (1, 2, 4)
SLOW_MS = 50
CONFIGURATION = """\
[[engine]]
name = "cxr"
kind = "chest_xray"
model = "absent"

[[destination]]
name = "pacs"
ae_title = "PACS"
host = "127.0.0.1"
port = {port}
associations = {associations}
"""


def main() -> None:
    """Measure both ways turn by turn, then the courier, and write the section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--objects", type=int, default=400)
    asked = parser.parse_args()
    _config.STORE_SEND_CHUNKED_DATASET = True
    with tempfile.TemporaryDirectory(prefix="overread-bench-") as scratch:
        folder = Path(scratch)
        with Storescp(folder / "dcmtk", TITLE, "--fork", "--ignore") as dcmtk, _scp(0) as plain:
            peers = {"storescp": dcmtk.port, "pynetdicom": plain}
            single = [
                row
                for (kind, size), sop_class in zip(SIZES.items(), CLASSES, strict=True)
                for peer, port in peers.items()
                for row in _single(folder, kind, size, sop_class, peer, port, asked.rounds)
            ]
            quick = [_courier(folder, "storescp", dcmtk.port, n, asked.objects) for n in ASSOCIATIONS]
        with _scp(SLOW_MS) as port:
            name = f"pynetdicom, each answer after {SLOW_MS} ms"
            slow = [_courier(folder, name, port, n, asked.objects // 4) for n in ASSOCIATIONS]
    body = (
        f"One object at a time, medians of {asked.rounds} in turns; milliseconds. The plain sender is pynetdicom with "
        "its own association, which also sends the bytes of the file undecoded.\n\n"
        + table(
            (
                "object",
                "peer",
                "sender",
                "association",
                "C-STORE to its response",
                "another C-STORE",
                "release",
                "processor time of an object with all of it",
            ),
            single,
        )
        + "\n\nThe courier with many reports in the outbox, from the claim of the first until the last is recorded as "
        "sent. Processor time is the courier's.\n\n"
        + table(
            ("peer", "associations", "objects", "objects/s", "processor time of an object, ms"),
            [*quick, *slow],
        )
    )
    write_section("Delivery", body)


@contextmanager
def _scp(milliseconds: float) -> Iterator[int]:
    """A pynetdicom SCP in a process of its own; its port."""
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.slow_scp", str(port), str(milliseconds)]
    process = subprocess.Popen(command)
    try:
        wait_until(lambda: answers(port), 60, "the SCP listens")
        yield port
    finally:
        process.kill()
        process.wait(10)


def _write(path: Path, size: int, sop_class: str, instance: str) -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(instance)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = generate_uid(), generate_uid()
    dataset.PatientID, dataset.PatientName, dataset.Modality = "BENCH", "Bench^Mark", "OT"
    if sop_class == Comprehensive3DSRStorage:
        dataset.TextValue = "x" * size
    else:
        dataset.Rows = dataset.Columns = 1024
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 8, 8, 7, 0
        dataset.PixelData = bytes(size)
        dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)


def _single(
    folder: Path, kind: str, size: int, sop_class: str, peer: str, port: int, rounds: int
) -> list[tuple[str, ...]]:
    """A row for each sender: milliseconds of association, C-STORE, another C-STORE, release; processor time."""
    instance = generate_uid()
    path = folder / f"{instance}.dcm"
    _write(path, size, sop_class, instance)
    file = FileToSend(
        path=path,
        sop_class_uid=sop_class,
        sop_instance_uid=instance,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    measured: dict[str, list[list[float]]] = {"plain": [], "overread": []}
    for _ in range(rounds):
        measured["plain"].append(_plain(file, port))
        measured["overread"].append(_ours(file, port))
    return [
        (kind, peer, sender, *(f"{statistics.median(column):.2f}" for column in zip(*times, strict=True)))
        for sender, times in measured.items()
    ]


def _ours(file: FileToSend, port: int) -> list[float]:
    destination = Destination(name="pacs", ae_title=TITLE, host="127.0.0.1", port=port)
    association: RequestedAssociation

    def connect() -> None:
        nonlocal association
        association = open_storage_association(
            destination, "BENCH", Timeouts(), contexts_for(kinds_of([file]))
        )

    def store() -> None:
        result = send_file(association, file)
        assert result.delivered, result.reason

    return _times(connect, store, lambda: association.release())


def _plain(file: FileToSend, port: int) -> list[float]:
    entity = AE(ae_title="BENCH")
    association = None

    def connect() -> None:
        nonlocal association
        contexts = [build_context(file.sop_class_uid, file.transfer_syntax_uid)]
        association = entity.associate("127.0.0.1", port, contexts=contexts, ae_title=TITLE)
        assert association.is_established

    def store() -> None:
        assert association is not None
        assert association.send_c_store(file.path).Status == 0

    def release() -> None:
        assert association is not None
        association.release()

    return _times(connect, store, release)


def _times(
    connect: Callable[[], None], store: Callable[[], None], release: Callable[[], None]
) -> list[float]:
    """Milliseconds of association, C-STORE, another C-STORE and release; then processor time without the other one."""
    wall: list[float] = []
    spent = 0.0
    for step in (connect, store, store, release):
        started, processor = time.perf_counter(), time.process_time()
        step()
        wall.append(1000 * (time.perf_counter() - started))
        if len(wall) != 3:
            spent += 1000 * (time.process_time() - processor)
    return [*wall, spent]


class _CountingOutbox(Outbox):
    """An outbox that says when so many deliveries are settled."""

    def __init__(self, database: Database, count: int) -> None:
        super().__init__(database)
        self.left = count
        self.all_settled = threading.Event()

    def settle(self, outcomes: Sequence[tuple[Delivery, DeliveryOutcome]]) -> list[Delivery]:
        """As the outbox; all of them have to be sent at the first try."""
        assert all(isinstance(outcome, Sent) for _, outcome in outcomes)
        stale = super().settle(outcomes)
        self.left -= len(outcomes)
        if not self.left:
            self.all_settled.set()
        return stale


def _courier(folder: Path, peer: str, port: int, associations: int, objects: int) -> tuple[str, ...]:
    """A row: objects a second with so many associations, and the processor time of each."""
    home = folder / generate_uid()
    home.mkdir()
    (home / "config.toml").write_text(CONFIGURATION.format(port=port, associations=associations))
    configuration = load(home / "config.toml")
    make_folders(configuration)
    database = Database.open(DatabaseSettings(url=f"sqlite:///{configuration.data_dir / 'overread.db'}"))
    database.upgrade()
    _fill(configuration, database, objects)
    (destination,) = configuration.destinations()
    courier = DestinationCourier(
        configuration, database, "courier", destination, AuditTrail(configuration.audit_settings())
    )
    courier.outbox = outbox = _CountingOutbox(database, objects)
    stop = threading.Event()
    thread = threading.Thread(target=courier.serve, args=(stop,))
    started, processor = time.perf_counter(), time.process_time()
    thread.start()
    outbox.all_settled.wait()
    seconds, spent = time.perf_counter() - started, time.process_time() - processor
    stop.set()
    courier.hint()
    thread.join()
    database.close()
    return (
        peer,
        str(associations),
        str(objects),
        f"{objects / seconds:.0f}",
        f"{1000 * spent / objects:.2f}",
    )


def _fill(configuration: Configuration, database: Database, objects: int) -> None:
    """Jobs with a report each."""
    queue = Queue(database)
    for number in range(objects):
        study = f"1.2.3.{number}"
        queued_job(database, study)
        (held,) = queue.claim("w", ["cxr"], 1, 60)
        instance = generate_uid()
        path = f"results/{instance}.dcm"
        _write(configuration.data_dir / path, SIZES["report, 20 kB"], Comprehensive3DSRStorage, instance)
        result = NewResult(
            kind="sr",
            study_instance_uid=study,
            series_instance_uid=f"{study}.9",
            sop_instance_uid=instance,
            sop_class_uid=Comprehensive3DSRStorage,
            transfer_syntax_uid=ExplicitVRLittleEndian,
            path=path,
            size=(configuration.data_dir / path).stat().st_size,
            sha256=f"{number:064x}",
            attributes={"PatientID": "BENCH"},
        )
        queue.settle(held, Done(model_version="m", results=(result,)))


if __name__ == "__main__":
    main()
