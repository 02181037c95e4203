"""``overread send`` sends files to any DICOM node; ``overread echo`` asks whether one answers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import pydicom
import typer
from pydicom.errors import InvalidDicomError
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from handlers.sending.sender import FileToSend, Sender
from handlers.sending.sender import echo as send_echo
from handlers.settings import Destination
from node.commands.common import ConfigOption, console, errors, load_configuration
from node.configuration.tables import checked_ae_title
from node.errors import CommandError, UsageError

CALLING_AE_TITLE = "OVERREAD"

TlsOption = Annotated[
    bool, typer.Option("--tls", help="Connect to the named address with TLS, by [tls] of the configuration.")
]


def parse_address(text: str) -> Destination:
    """Parse ``AE@host:port``.

    Raises:
        UsageError: the text has another form.
    """
    match = re.fullmatch(r"([^@]*)@(.+):([0-9]{1,5})", text)
    if match is None or not 0 < int(match[3]) < 65536:
        raise UsageError(f"{text!r} is no address: write AE@host:port, for example ORTHANC@127.0.0.1:4242.")
    return Destination(
        name=text, ae_title=ae_title_of(match[1]), host=match[2].strip("[]"), port=int(match[3])
    )


def ae_title_of(text: str) -> str:
    """Check an AE title from the command line.

    Raises:
        UsageError: it is not valid.
    """
    try:
        return checked_ae_title(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no AE title: {error}.") from None


def with_tls(destination: Destination, config: Path | None) -> Destination:
    """The destination with the certificates of the configuration.

    Raises:
        CommandError: the configuration has none.
    """
    tls = load_configuration(config).tls_settings()
    if tls is None or tls.ca is None:
        raise CommandError("The configuration has no [tls] table with certificate, key and ca.")
    return replace(destination, tls=tls)


def find_files(paths: Sequence[Path]) -> Iterator[Path]:
    """The given files, and all files below the given folders by name. Hidden files in folders are left out.

    Raises:
        UsageError: a path does not exist.
    """
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.is_file() and not p.name.startswith("."))
        elif path.exists():
            yield path
        else:
            raise UsageError(f"{path} does not exist.")


def describe_file(path: Path) -> FileToSend | None:
    """What a sender needs to know of a DICOM file; None if it is not one."""
    try:
        meta = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
    except (InvalidDicomError, OSError):
        return None
    if "SOPInstanceUID" not in meta or "TransferSyntaxUID" not in meta.file_meta or "SOPClassUID" not in meta:
        return None
    return FileToSend(
        path=path,
        sop_class_uid=str(meta.SOPClassUID),
        sop_instance_uid=str(meta.SOPInstanceUID),
        transfer_syntax_uid=str(meta.file_meta.TransferSyntaxUID),
    )


def send(
    paths: Annotated[list[Path], typer.Argument(help="DICOM files or folders of them.")],
    to: Annotated[str, typer.Option(help="The receiver as AE@host:port.")],
    calling: Annotated[str, typer.Option(help="Our AE title.")] = CALLING_AE_TITLE,
    tls: TlsOption = False,
    config: ConfigOption = None,
) -> None:
    """Send DICOM files to any node."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    destination, calling_ae = parse_address(to), ae_title_of(calling)
    if tls:
        destination = with_tls(destination, config)
    files: list[FileToSend] = []
    left_out = 0
    for path in find_files(paths):
        file = describe_file(path)
        if file is None or path.name == "DICOMDIR":
            left_out += 1
        else:
            files.append(file)
    if not files:
        raise CommandError("There is no DICOM file in what you named.")
    failed = 0
    with Progress(
        TextColumn("sending"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=errors
    ) as progress:
        task = progress.add_task("send", total=len(files))
        for result in Sender(destination, calling_ae).send(files):
            progress.advance(task)
            if not result.delivered:
                failed += 1
                progress.console.print(f"{result.file.path}: {result.reason}", markup=False)
    console.print(
        f"{len(files) - failed} sent, {failed} failed"
        + (f", {left_out} files were no DICOM" if left_out else "")
    )
    if failed:
        raise typer.Exit(1)


def echo(
    addresses: Annotated[
        list[str] | None,
        typer.Argument(help="AE@host:port; without one, every destination of the configuration."),
    ] = None,
    tls: TlsOption = False,
    config: ConfigOption = None,
) -> None:
    """Ask nodes whether they answer (C-ECHO)."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    if addresses:
        targets, calling = [parse_address(address) for address in addresses], CALLING_AE_TITLE
        if tls:
            targets = [with_tls(target, config) for target in targets]
    else:
        configuration = load_configuration(config)
        targets, calling = list(configuration.destinations()), configuration.node.ae_title
    if not targets:
        raise CommandError("The configuration has no [[destination]]: name one as AE@host:port.")
    unanswered = 0
    for target in targets:
        result = send_echo(target, calling)
        unanswered += not result.ok
        answer = (
            f"answers in {result.milliseconds:.0f} ms" if result.ok else f"does not answer: {result.reason}"
        )
        console.print(f"{target.name}: {answer}", markup=False)
    if unanswered:
        raise typer.Exit(1)
