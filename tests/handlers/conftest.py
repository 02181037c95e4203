"""A receiver in a thread of the test, over a database of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, generate_uid

from db.database import Database
from db.index import Index
from handlers.acceptor.server import Server
from handlers.audit.trail import AuditTrail
from handlers.settings import ReceiverSettings
from tests.databases import migrated
from tests.peers.spool import filled

REAL_DATA = Path(__file__).resolve().parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of the real images."""
    if not REAL_DATA.is_dir():
        pytest.skip("the real images are not on this machine")
    return REAL_DATA


@dataclass(frozen=True, kw_only=True)
class Receiver:
    """A running receiver."""

    server: Server
    database: Database
    folder: Path

    @property
    def port(self) -> int:
        return self.server.port

    @property
    def tls_port(self) -> int:
        return self.server.tls_port

    @property
    def index(self) -> Index:
        return Index(self.database)

    def files(self) -> list[Path]:
        """What the spool holds, unfinished files too."""
        return filled(self.folder / "spool")


StartReceiver = Callable[..., Receiver]


@contextmanager
def running(folder: Path, **settings: Any) -> Iterator[Receiver]:
    """A receiver that is patient unless the settings say otherwise."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    database = migrated(folder / "test.db")
    audit = AuditTrail(settings.pop("audit", None))
    chosen = ReceiverSettings(
        **{
            "ae_title": "OVERREAD",
            "host": "127.0.0.1",
            "port": 0,
            "spool": folder / "spool",
            "acse_timeout_seconds": 30.0,
            "network_timeout_seconds": 30.0,
            "idle_timeout_seconds": 300.0,
            **settings,
        }
    )
    server = Server(chosen, database, folder, folder / "run", audit)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield Receiver(server=server, database=database, folder=folder)
    finally:
        server.stop(1.0)
        thread.join(15)
        audit.close()
        database.close()
        assert not thread.is_alive()


@pytest.fixture
def start_receiver(tmp_path: Path) -> Iterator[StartReceiver]:
    """Starts a receiver with given settings; it stops with the test."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(running(tmp_path, **settings))


@pytest.fixture
def receiver(start_receiver: StartReceiver) -> Receiver:
    """A receiver with the usual settings."""
    return start_receiver()


def write_object(path: Path, sop_class: str = CTImageStorage, **attributes: Any) -> Dataset:
    """A small object without pixels."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = sop_class
    dataset.SOPInstanceUID = generate_uid()
    dataset.StudyInstanceUID = generate_uid()
    dataset.SeriesInstanceUID = generate_uid()
    dataset.PatientName, dataset.PatientID, dataset.Modality = "Canary^One", "CANARY", "CT"
    for keyword, value in attributes.items():
        setattr(dataset, keyword, value)
    dataset.file_meta.MediaStorageSOPClassUID = UID(sop_class)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.save_as(path, enforce_file_format=True)
    return dataset
