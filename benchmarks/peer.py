"""A PACS in a process of its own that keeps what it gets by study: DCMTK's storescp, else one of pynetdicom.

Usage, for the one of pynetdicom: python -m benchmarks.peer PORT FOLDER
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import TracebackType

from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.events import Event

from tests.peers.programs import SYSTEM_PATH
from tests.peers.scripted import instance_of
from tests.peers.waiting import answers, free_port, wait_until

AE_TITLE = "PACS"
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"
PREFIX = "study"
"""storescp names a folder by this, an underscore and the Study Instance UID; its names of reports start with SR."""


class Peer:
    """Listens on a free port while its context lasts; the folder is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        storescp = shutil.which("storescp", path=SYSTEM_PATH)
        if storescp is None:
            self.name = "pynetdicom"
            self._command = [sys.executable, "-m", "benchmarks.peer", str(self.port), str(folder)]
        else:
            self.name = "storescp"
            options = ["--fork", "-pdu", "131072", "-su", PREFIX, "-od", str(folder)]
            self._command = [storescp, *options, str(self.port)]

    def __enter__(self) -> Peer:
        self.folder.mkdir(parents=True)
        self._process = subprocess.Popen(
            self._command,
            env={**os.environ, "TCP_NODELAY": "1"},
            cwd=Path(__file__).resolve().parents[1],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: answers(self.port), 60, f"{self.name} listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    @property
    def pid(self) -> int:
        """The number of its process."""
        return self._process.pid

    def report_arrived(self, study_instance_uid: str) -> float | None:
        """When a study's report had been written, in seconds since the epoch; None where there is none yet."""
        folder = self.folder / f"{PREFIX}_{study_instance_uid}"
        return max((path.stat().st_mtime for path in folder.glob("SR*")), default=None)


def main(port: int, folder: Path) -> None:
    """Serve until killed; files are not synced."""

    def store(event: Event) -> int:
        kind = "SR" if event.request.AffectedSOPClassUID == COMPREHENSIVE_3D_SR else "OT"
        study = folder / f"{PREFIX}_{event.dataset.StudyInstanceUID}"
        study.mkdir(exist_ok=True)
        (study / f"{kind}.{instance_of(event)}").write_bytes(event.encoded_dataset())
        return 0x0000

    entity = AE(ae_title=AE_TITLE)
    entity.maximum_associations = 64
    entity.maximum_pdu_size = 0
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=[(evt.EVT_C_STORE, store)])


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]))
