"""``overread check`` looks whether everything works; ``overread explain-route`` says where objects would go."""

from __future__ import annotations

import logging
import os
import uuid
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydicom.uid import JPEGBaseline8Bit, SecondaryCaptureImageStorage
from rich.markup import escape
from rich.table import Table

from db.database import Database
from db.errors import DatabaseError
from handlers.errors import ScanError
from handlers.sending.acceptance import reason_not_accepted
from handlers.sending.commitment import offers_commitment
from handlers.sending.sender import echo
from handlers.settings import Destination
from handlers.spool.part10 import scan_file
from inference.engines import engine_class
from inference.errors import InferenceError
from inference.store import ModelStore
from node.commands.common import ConfigOption, JsonOption, console, errors, load_configuration, print_json
from node.commands.send import find_files
from node.configuration.configuration import Configuration
from node.errors import CommandError, raised_at
from node.processes.engine_keywords import engine_keywords
from node.processes.process import make_folders
from node.steps import routing
from node.steps.planning import selection_of


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check."""

    subject: str
    ok: bool
    message: str


def check(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Verify configuration, database, spool, models, devices and C-ECHO to every destination."""
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    configuration = load_configuration(config)
    findings: list[Finding] = []
    for finding in _checks(configuration):
        findings.append(finding)
        if not json:
            mark = "[green]ok[/]   " if finding.ok else "[red]wrong[/]"
            console.print(f"{mark} {escape(finding.subject)}: {escape(finding.message)}")
    if json:
        print_json([{"subject": f.subject, "ok": f.ok, "message": f.message} for f in findings])
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


def _checks(configuration: Configuration) -> Iterator[Finding]:
    """All checks, each as soon as it is done: engines and silent destinations take seconds."""
    yield Finding(subject="configuration", ok=True, message=str(configuration.file))
    yield from _check_folders(configuration)
    yield _check_database(configuration)
    yield from _check_engines(configuration)
    yield from _check_destinations(configuration)


def _check_folders(configuration: Configuration) -> Iterator[Finding]:
    """Check the folders by writing a file to each."""
    try:
        make_folders(configuration)
    except OSError as error:
        yield Finding(subject="data folder", ok=False, message=f"{configuration.data_dir}: {error.strerror}")
        return
    for subject, folder in (("spool", configuration.spool_dir), ("results", configuration.results_dir)):
        probe = folder / f".probe-{uuid.uuid4().hex}"
        try:
            probe.write_bytes(b"overread")
            probe.unlink()
        except OSError as error:
            yield Finding(subject=subject, ok=False, message=f"{folder} cannot be written: {error.strerror}")
            continue
        statistics = os.statvfs(folder)
        free = statistics.f_bavail * statistics.f_frsize / 1e9
        yield Finding(subject=subject, ok=True, message=f"{folder} is writable, {free:.1f} GB free")


def _check_database(configuration: Configuration) -> Finding:
    try:
        database = Database.open(configuration.database_settings())
        try:
            status = database.schema_status()
        finally:
            database.close()
    except DatabaseError as error:
        return Finding(subject="database", ok=False, message=str(error))
    messages = {
        "current": "schema is current",
        "empty": "empty; `overread serve` will create the schema",
        "old": "schema is old; `overread serve` will upgrade it",
        "newer": "schema is newer than this overread: update overread",
    }
    return Finding(subject="database", ok=status != "newer", message=messages[status])


def _check_engines(configuration: Configuration) -> Iterator[Finding]:
    store = ModelStore(configuration.models_dir)
    for engine in configuration.engine:
        subject = f"engine {engine.name}"
        settings = configuration.engine_settings(engine.name)
        try:
            loaded = engine_class(engine.kind).load(settings, store)
        except InferenceError as error:
            yield Finding(subject=subject, ok=False, message=str(error))
        except Exception as error:
            # Engines run foreign code, which may raise anything; the other engines are checked all the same.
            reason = (str(error).strip().splitlines() or ["no reason given"])[0]
            message = f"does not load: {type(error).__name__} at {raised_at(error)}: {reason}"
            yield Finding(subject=subject, ok=False, message=message)
        else:
            yield Finding(subject=subject, ok=True, message=f"{loaded.model.version} on {loaded.device}")


def _check_destinations(configuration: Configuration) -> Iterator[Finding]:
    for destination in configuration.destinations():
        result = echo(destination, configuration.node.ae_title)
        message = (
            f"answers in {result.milliseconds:.0f} ms" if result.ok else f"does not answer: {result.reason}"
        )
        yield Finding(subject=f"destination {destination.name}", ok=result.ok, message=message)
        if configuration.overlay.compression == "jpeg" and result.ok:
            yield _check_overlays(configuration, destination)
        if destination.commit and result.ok:
            answer = offers_commitment(destination, configuration.node.ae_title)
            yield Finding(
                subject=f"storage commitment of {destination.name}",
                ok=answer.accepted,
                message="offered"
                if answer.accepted
                else f"not offered ({answer.reason}): enable it there for this AE title or set commit = false",
            )


def _check_overlays(configuration: Configuration, destination: Destination) -> Finding:
    """Check that a destination takes compressed overlays; others would never get there."""
    reason = reason_not_accepted(
        destination, configuration.node.ae_title, SecondaryCaptureImageStorage, JPEGBaseline8Bit
    )
    return Finding(
        subject=f"overlays for {destination.name}",
        ok=not reason,
        message="taken in JPEG Baseline"
        if not reason
        else f"not taken in JPEG Baseline ({reason}): enable it there or set overlay.compression to none",
    )


def explain_route(
    files: Annotated[list[Path], typer.Argument(help="DICOM files or folders of them; grouped by series.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Show which rules take these objects, which do not, and why."""
    configuration = load_configuration(config)
    series: dict[str, list[routing.Instance]] = defaultdict(list)
    kinds = [engine.kind for engine in configuration.engine]
    keywords = configuration.receiver_settings(engine_keywords(kinds)).attributes
    for path in find_files(files):
        instance = _read_instance(path, keywords)
        if instance is not None:
            series[str(instance.attributes.get("SeriesInstanceUID"))].append(instance)
    if not series:
        raise CommandError("There is no DICOM file in what you named.")
    document = [
        {
            "series_instance_uid": uid,
            "instances": len(instances),
            "rules": [
                _explain_rule(configuration, index, instances) for index in range(len(configuration.route))
            ],
        }
        for uid, instances in series.items()
    ]
    if json:
        print_json(document)
        return
    for entry in document:
        console.print(f"[bold]Series[/] {entry['series_instance_uid']}, {entry['instances']} instances")
        table = Table("rule", "takes it", "because", "engines", box=None, pad_edge=False)
        for rule in entry["rules"]:  # type: ignore[attr-defined]
            engines = "; ".join(
                f"{e['engine']}: " + (e["refused"] or f"{e['inputs']} images") for e in rule["engines"]
            )
            table.add_row(rule["route"], "yes" if rule["takes"] else "no", rule["reason"], engines or "-")
        console.print(table)


def _explain_rule(
    configuration: Configuration, index: int, instances: list[routing.Instance]
) -> dict[str, object]:
    route = configuration.route[index]
    verdict = routing.verdict_of(route, instances)
    engines = []
    for name in route.engines if verdict.takes else ():
        selection = selection_of(configuration.engine_named(name).kind, verdict.instances)
        refused = None if selection.inputs else selection.reasons
        engines.append({"engine": name, "inputs": len(selection.inputs), "refused": refused})
    return {"route": route.name, "takes": verdict.takes, "reason": verdict.reason, "engines": engines}


def _read_instance(path: Path, keywords: frozenset[str]) -> routing.Instance | None:
    """A file as a receiver would index it; None if it is no DICOM file or a receiver would refuse it."""
    try:
        attributes = scan_file(path, keywords)
    except OSError as error:
        errors.print(f"{path}: {error.strerror}", markup=False, soft_wrap=True)
        return None
    except ScanError as error:
        errors.print(f"{path}: a receiver refuses it: {error}", markup=False, soft_wrap=True)
        return None
    if attributes is None:
        return None
    return routing.Instance(
        sop_instance_uid=str(attributes.get("SOPInstanceUID") or ""),
        sop_class_uid=str(attributes.get("SOPClassUID") or ""),
        attributes=attributes,
    )
