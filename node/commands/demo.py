"""``overread demo``: sends a generated study through a node to a small PACS, and shows what comes back."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import pydicom
import typer
from PIL import Image
from rich.table import Table

from handlers.sending.sender import Sender
from handlers.sending.storage_folder import StorageFolder
from handlers.settings import Destination
from inference.demo.phantoms import phantom_dicom
from node.commands.common import console
from node.commands.send import describe_file
from node.errors import CommandError, UsageError
from sr_writer import findings_table, render_text

READY_SECONDS = 60.0
"""How long the node may take to start."""
RESULT_SECONDS = 120.0
"""How long the report may take."""
MARKER = ".overread-demo"
"""The file that marks a folder as made by a demonstration."""
COMPREHENSIVE_3D_SR = "1.2.840.10008.5.1.4.1.1.88.34"

CONFIGURATION = """\
[node]
host = "127.0.0.1"
port = {port}
receivers = 1

[web]
port = {web_port}

[[destination]]
name = "pacs"
ae_title = "DEMOPACS"
host = "127.0.0.1"
port = {pacs_port}

[[engine]]
name = "cxr"
kind = "chest_xray"
model = "demo"

[[route]]
name = "chest x-rays"
match = {{ Modality = ["CR", "DX"], BodyPartExamined = "CHEST|THORAX" }}
engines = ["cxr"]
destinations = ["pacs"]
"""


def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the demonstration; a former one there is removed.")
    ] = Path("demo-output"),
    seed: Annotated[int, typer.Option(help="Which generated patient.")] = 7,
) -> None:
    """Send a generated chest X-ray through a node to a small PACS and print what comes back."""
    _prepare_folder(out)
    study = out / "phantom.dcm"
    phantom_dicom(seed).save_as(study, enforce_file_format=True)
    with StorageFolder(out / "pacs", "DEMOPACS") as pacs:
        port, web_port = _free_port(), _free_port()
        configuration = out / "config.toml"
        configuration.write_text(CONFIGURATION.format(port=port, web_port=web_port, pacs_port=pacs.port))
        log = (out / "node.log").open("wb")
        command = [sys.executable, "-m", "node.cli", "serve", "-c", str(configuration)]
        node = subprocess.Popen(command, stderr=log, stdout=log, env={**os.environ, "OVERREAD_CONFIG": ""})
        try:
            console.print("A node and a small PACS are starting ...")
            _wait_until_ready(node, web_port, out / "node.log")
            console.print(f"Sending {study} by C-STORE to OVERREAD@127.0.0.1:{port}")
            _send(study, port)
            files = _wait_for_report(pacs, out / "node.log")
        finally:
            node.send_signal(signal.SIGTERM)
            node.wait(60)
            log.close()
    _print_results(files, out)


def _prepare_folder(out: Path) -> None:
    """Create the folder, or empty it if an earlier demonstration made it.

    Raises:
        UsageError: the folder has other data.
    """
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARKER).is_file())):
        raise UsageError(
            f"{out} exists and `overread demo` did not make it: name another folder with --out, or remove it yourself."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).touch()
    for entry in out.iterdir():
        if entry.name == MARKER:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_ready(node: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    with httpx.Client(timeout=2) as web:
        while time.monotonic() < deadline and node.poll() is None:
            try:
                if web.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
    raise CommandError(f"The node did not start: {log} says why.")


def _send(study: Path, port: int) -> None:
    file = describe_file(study)
    assert file is not None
    node = Destination(name="node", ae_title="OVERREAD", host="127.0.0.1", port=port)
    for result in Sender(node, "DEMO").send([file]):
        if not result.delivered:
            raise CommandError(f"The node did not take the study: {result.reason}.")


def _wait_for_report(pacs: StorageFolder, log: Path) -> list[Path]:
    """Wait until the PACS has the report and all overlays that it refers to; returns the files.

    Raises:
        CommandError: they did not come in time.
    """
    deadline = time.monotonic() + RESULT_SECONDS
    count = 1
    while (left := deadline - time.monotonic()) > 0:
        files = pacs.wait_for(count, left)
        datasets = [pydicom.dcmread(path) for path in files]
        present = {dataset.SOPInstanceUID for dataset in datasets}
        for dataset in datasets:
            if dataset.SOPClassUID == COMPREHENSIVE_3D_SR:
                overlays = len(present) - 1
                expected = sum(
                    len(series.ReferencedSOPSequence)
                    for study in dataset.CurrentRequestedProcedureEvidenceSequence
                    for series in study.ReferencedSeriesSequence
                )
                if overlays >= expected - 1:
                    return files
        count = len(files) + 1
    raise CommandError(f"No report came back within {RESULT_SECONDS:.0f} seconds: {log} says why.")


def _print_results(files: list[Path], out: Path) -> None:
    pictures: list[Path] = []
    for path in files:
        dataset: Any = pydicom.dcmread(path)
        if dataset.SOPClassUID == COMPREHENSIVE_3D_SR:
            report = dataset
        else:
            picture = out / f"overlay-{len(pictures) + 1}.png"
            Image.fromarray(dataset.pixel_array).save(picture)
            pictures.append(picture)
    verdict = _validate(next(path for path in files if _sop_class(path) == COMPREHENSIVE_3D_SR))
    table = Table("finding", "certainty", "presence", "severity", title="Findings", title_justify="left")
    for row in findings_table(report):
        spread = "" if row.deviation_percent is None else f" +- {row.deviation_percent:.1f}"
        table.add_row(row.finding, f"{row.certainty_percent:.1f} %{spread}", row.presence, row.severity)
    console.print(render_text(report), markup=False)
    console.print(verdict, markup=False)
    console.print(table)
    for picture in pictures:
        console.print(f"Overlay: {picture.resolve()}", markup=False)


def _sop_class(path: Path) -> str:
    return str(pydicom.dcmread(path, specific_tags=["SOPClassUID"]).SOPClassUID)


def _validate(report: Path) -> str:
    """Check the report with dciodvfy, if it is installed; returns its verdict in one line.

    Raises:
        CommandError: the report has errors.
    """
    if shutil.which("dciodvfy") is None:
        return "The report was not validated: dicom3tools' dciodvfy is not installed."
    done = subprocess.run(
        ["dciodvfy", str(report)], capture_output=True, text=True, errors="replace", timeout=60
    )
    errors = [line for line in (done.stderr + done.stdout).splitlines() if line.startswith("Error")]
    if errors:
        raise CommandError(f"dciodvfy finds {len(errors)} errors in the report: {errors[0]}")
    return "dciodvfy finds no error in the report."
