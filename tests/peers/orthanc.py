"""Orthanc as the PACS."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import pydicom

from tests.peers.programs import program
from tests.peers.waiting import free_port, wait_until
from tests.peers.web import web_client


class Orthanc:
    """A PACS of its own in a folder; it can be stopped and started again on the same ports."""

    def __init__(self, folder: Path, ae_title: str = "ORTHANC") -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.port = free_port()
        self.web_port = free_port()
        self._web = web_client(self.web_port, timeout=30)
        self.modalities: dict[str, dict[str, Any]] = {}
        """Peers that it can talk to, by a name of its own; read when it starts."""
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Orthanc:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        configuration = self.folder / "orthanc.json"
        configuration.write_text(
            json.dumps(
                {
                    "Name": "tests",
                    "StorageDirectory": str(self.folder / "storage"),
                    "IndexDirectory": str(self.folder / "storage"),
                    "DicomAet": self.ae_title,
                    "DicomPort": self.port,
                    "HttpPort": self.web_port,
                    "RemoteAccessAllowed": False,
                    "AuthenticationEnabled": False,
                    "DicomAlwaysAllowStore": True,
                    "SyncStorageArea": True,
                    "OverwriteInstances": True,
                    "DicomModalities": self.modalities,
                    "Plugins": [],
                }
            )
        )
        with (self.folder / "orthanc.log").open("ab") as log:
            self._process = subprocess.Popen(
                [program("Orthanc"), configuration],
                stdout=log,
                stderr=log,
                env={**os.environ, "TCP_NODELAY": "1"},
            )
        wait_until(self._answers, 30, "Orthanc answers")

    def stop(self) -> None:
        """Stop it, as for maintenance; killed where it does not end, as it may while it reports to a node that dies."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def get(self, path: str) -> Any:
        """A JSON document of its REST API."""
        response = self._web.get(path)
        response.raise_for_status()
        return response.json()

    def post(self, path: str, document: Any) -> Any:
        """What its REST API answers to a JSON document."""
        response = self._web.post(path, json=document)
        response.raise_for_status()
        return response.json()

    def instances(self) -> list[str]:
        """Orthanc's own identifiers of what it holds."""
        return list(self.get("/instances"))

    def uids(self) -> dict[str, str]:
        """SOP Instance UID by Orthanc's own identifier, of everything that it holds."""
        return {
            entry["ID"]: str(entry["MainDicomTags"]["SOPInstanceUID"])
            for entry in self.get("/instances?expand")
        }

    def file(self, identifier: str, folder: Path) -> Path:
        """One instance, downloaded into a folder."""
        response = self._web.get(f"/instances/{identifier}/file")
        response.raise_for_status()
        path = folder / f"{identifier}.dcm"
        path.write_bytes(response.content)
        return path

    def objects(
        self, folder: Path, study_instance_uid: str | None = None
    ) -> list[tuple[Path, pydicom.Dataset]]:
        """Everything it holds, or what it holds of one study, with the files."""
        folder.mkdir(parents=True, exist_ok=True)
        read = [(path, pydicom.dcmread(path)) for path in (self.file(i, folder) for i in self.instances())]
        return [
            (path, dataset)
            for path, dataset in read
            if study_instance_uid in (None, dataset.StudyInstanceUID)
        ]

    def _answers(self) -> bool:
        try:
            self.get("/system")
        except httpx.HTTPError:
            return False
        return True
