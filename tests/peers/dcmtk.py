"""DCMTK as modality and as PACS: storescu, findscu, getscu, movescu and storescp of the system."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from types import TracebackType

import pydicom

from tests.peers.programs import program
from tests.peers.waiting import answers, free_port, wait_until

PROPOSALS = {
    "1.2.840.10008.1.2": "-xi",
    "1.2.840.10008.1.2.2": "-xb",
    "1.2.840.10008.1.2.1.99": "-xd",
    "1.2.840.10008.1.2.4.50": "-xy",
    "1.2.840.10008.1.2.4.51": "-xx",
    "1.2.840.10008.1.2.4.70": "-xs",
    "1.2.840.10008.1.2.4.80": "-xt",
    "1.2.840.10008.1.2.4.81": "-xu",
    "1.2.840.10008.1.2.4.90": "-xv",
    "1.2.840.10008.1.2.4.91": "-xw",
    "1.2.840.10008.1.2.5": "-xr",
}
"""storescu's option for the transfer syntax of a file; it sends files as they are stored."""


def run(name: str, *arguments: str | Path, seconds: float = 60, folder: Path | None = None) -> str:
    """Run one of DCMTK's programs; its output. Raises CalledProcessError where it fails."""
    done = subprocess.run(
        [program(name), *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        timeout=seconds,
        cwd=folder,
        env={**os.environ, "TCP_NODELAY": "1"},
        check=True,
    )
    return done.stdout + done.stderr


def storescu(
    port: int,
    *files: Path,
    called: str = "OVERREAD",
    calling: str = "MODALITY",
    pdu_length: int | None = None,
    seconds: float = 60,
) -> None:
    """Send files of one transfer syntax over one association, each as it is stored."""
    syntax = str(pydicom.dcmread(files[0], stop_before_pixels=True).file_meta.TransferSyntaxUID)
    proposal = PROPOSALS.get(syntax, "-x=")
    options = [] if pdu_length is None else ["--max-send-pdu", str(pdu_length)]
    titles = ["-aet", calling, "-aec", called]
    run("storescu", "-R", proposal, *options, *titles, "127.0.0.1", str(port), *files, seconds=seconds)


def send(port: int, *files: Path, pdu_length: int | None = None, seconds: float = 60) -> None:
    """What a modality does: send files again until each is acknowledged."""

    def acknowledged() -> bool:
        try:
            storescu(port, *files, pdu_length=pdu_length, seconds=seconds)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired):
            return False
        return True

    wait_until(acknowledged, seconds, "the node acknowledges")


def findscu(port: int, level: str, *keys: str) -> list[dict[str, str]]:
    """The answers to a Study Root query, as their non-empty values by keyword."""
    options = [option for key in (f"QueryRetrieveLevel={level}", *keys) for option in ("-k", key)]
    output = run("findscu", "-S", "-aec", "OVERREAD", "127.0.0.1", str(port), *options)
    found: list[dict[str, str]] = []
    for line in output.splitlines():
        if "Find Response:" in line:
            found.append({})
        element = re.search(r"\([0-9a-f]{4},[0-9a-f]{4}\) \w\w \[(.*)\].*\s(\w+)$", line)
        if element is not None and found:
            found[-1][element[2]] = element[1].rstrip(" \0")
    return found


class Storescp:
    """DCMTK's storescp on a free port, keeping what it gets in a folder."""

    def __init__(self, folder: Path, ae_title: str, *options: str, port: int | None = None) -> None:
        self.folder = folder
        self.ae_title = ae_title
        self.options = options
        self.port = port or free_port()

    def __enter__(self) -> Storescp:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._process = subprocess.Popen(
            [program("storescp"), "-aet", self.ae_title, "-od", self.folder, *self.options, str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: answers(self.port), 10, "storescp listens")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(10)

    def files(self) -> list[Path]:
        """What has arrived."""
        return sorted(self.folder.iterdir())
