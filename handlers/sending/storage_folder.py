"""A small PACS for demonstrations: accepts every object and writes it to a folder."""

from __future__ import annotations

import threading
from pathlib import Path
from types import TracebackType

from pydicom.uid import generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

from handlers.dimse.uids import VERIFICATION


class StorageFolder:
    """A C-STORE SCP on a free port of the loopback address; it writes each object it receives to a folder."""

    def __init__(self, folder: Path, ae_title: str) -> None:
        self.folder = folder
        self.received: list[Path] = []
        self.arrived = threading.Condition()
        self._entity = AE(ae_title=ae_title)
        self._entity.supported_contexts = AllStoragePresentationContexts
        self._entity.add_supported_context(VERIFICATION)
        self.port = 0

    def __enter__(self) -> StorageFolder:
        """Start the SCP; ``port`` is known from then on."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._server = self._entity.start_server(
            ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, self._store)]
        )
        assert self._server is not None
        self.port = self._server.server_address[1]
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the SCP."""
        if self._server is not None:
            self._server.shutdown()

    def wait_for(self, count: int, seconds: float) -> list[Path]:
        """The received files, as soon as there are ``count`` of them, or else those there are after ``seconds``."""
        with self.arrived:
            self.arrived.wait_for(lambda: len(self.received) >= count, seconds)
            return list(self.received)

    def _store(self, event: Event) -> int:
        path = self.folder / f"{generate_uid()}.dcm"
        path.write_bytes(event.encoded_dataset())
        with self.arrived:
            self.received.append(path)
            self.arrived.notify_all()
        return 0x0000
