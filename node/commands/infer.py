"""``overread infer``: runs an engine on files without a node, by the same steps as in a node."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference.engine import Engine
from inference.engines import engine_class
from inference.errors import DeviceLost, ImageUnreadable, InferenceError
from inference.findings import Analysis, Refusal
from inference.offline.nodule_files import write_nodule_files
from inference.offline.output import case_document, refusal_document
from inference.reading.files import read_region
from inference.reading.plain import is_plain_picture
from inference.reading.pool import limit_readers
from inference.store import ModelStore
from node.commands.common import (
    ConfigOption,
    JsonOption,
    console,
    engine_settings,
    errors,
    load_configuration,
    print_json,
)
from node.commands.send import find_files
from node.errors import CommandError, UsageError
from node.line.work import Failure, Result
from node.steps.inputs import is_image, run_inputs, select
from node.steps.reports import series_number, written_objects
from sr_writer import ReportContext, overlay_pictures

CSV = "results.csv"
CSV_COLUMNS = (
    "input",
    "engine",
    "model_version",
    "label",
    "probability",
    "calibrated_probability",
    "ensemble_std",
    "disclaimer",
    "skipped",
)
CASE_FILES = (
    "result.json",
    "sr.dcm",
    "overlay-*.dcm",
    "overlay-*.png",
    "segmentation-*.dcm",
    "heatmap-*.png",
    "scan_detections.json",
    "scan_detections.csv",
    "scan_heatmap.nii.gz",
    "scan_visualization.png",
    "scan_confidence_distribution.png",
    "scan_3d_rendering.html",
    "scan_report.pdf",
)
"""Patterns of the files that are written to the folder of a case."""


class _CaseFolders:
    """Gives each case of a run its own folder, even if UIDs or file names occur twice."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._taken = {CSV}

    @property
    def count(self) -> int:
        """How many folders were made."""
        return len(self._taken) - 1

    def next_for(self, name: str) -> Path:
        """The folder for the next case with this name."""
        chosen, number = name, 1
        while chosen in self._taken:
            number += 1
            chosen = f"{name}-{number}"
        return self._out / chosen

    def make(self, folder: Path) -> None:
        """Create the folder of a case, and remove what an earlier run wrote there."""
        self._taken.add(folder.name)
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in CASE_FILES:
            for old_file in folder.glob(pattern):
                old_file.unlink()


def infer(
    paths: Annotated[
        list[Path], typer.Argument(help="DICOM, PNG or JPEG files, or folders; series are put together.")
    ],
    engine: Annotated[str, typer.Option(help="An [[engine]] of the configuration.")],
    out: Annotated[Path, typer.Option(help="Folder for JSON, CSV, SR and overlays.")],
    config: ConfigOption = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images in one forward pass.")] = 8,
    workers: Annotated[int, typer.Option(min=1, help="Threads that read images.")] = 2,
    roi: Annotated[
        str | None,
        typer.Option(
            help="Region of interest, for engines that take one: x,y,width,height in pixels, or the file of a "
            "Presentation State or Structured Report with one."
        ),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run an engine on files and write SR, overlays and JSON."""
    configuration = load_configuration(config)
    limit_readers(configuration.reader_limits())
    settings = engine_settings(configuration, engine)
    if roi is not None:
        settings = replace(settings, options={**settings.options, "roi": _parse_region(roi)})
    files = [path for path in dict.fromkeys(find_files(paths)) if is_image(path)]
    if not files:
        raise CommandError("There is no DICOM, PNG or JPEG file in what you named.")
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is no folder: name another one with --out.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        loaded = engine_class(settings.kind).load(settings, ModelStore(configuration.models_dir))
    except InferenceError as error:
        raise CommandError(str(error)) from error
    try:
        documents = _run(loaded, files, out, batch_size, workers)
    except DeviceLost as error:
        raise CommandError(f"Device {error} no longer answers: run the command again.") from error
    for path in paths:
        if path.is_file() and path not in files:
            refusal = Refusal(path=path, reason="it is no DICOM, PNG or JPEG file")
            documents.append(refusal_document(refusal, loaded.settings.name, loaded.model.version))
    _write_csv(documents, out / CSV)
    if json:
        print_json(documents)
    else:
        _print_summary(documents, out)
    if all(document["skipped"] for document in documents):
        raise typer.Exit(1)


def _print_summary(documents: Sequence[dict[str, Any]], out: Path) -> None:
    skipped = [d for d in documents if d["skipped"]]
    analysed = [d for d in documents if not d["skipped"]]
    for document in skipped:
        console.print(f"skipped {document['input']}: {document['skipped']}", markup=False)
    mean = sum(d["inference_time_ms"] for d in analysed) / len(analysed) if analysed else 0.0
    console.print(
        f"{len(analysed)} cases, {len(skipped)} skipped, {mean:.0f} ms a case; results in {out}", markup=False
    )


def _parse_region(text: str) -> list[int]:
    """The region of ``--roi``: x, y, width and height in pixels.

    Raises:
        CommandError: the file has no region that can be used.
        UsageError: it is neither a file nor four numbers.
    """
    if Path(text).is_file():
        try:
            return list(read_region(Path(text)))
        except (ImageUnreadable, OSError) as error:
            raise CommandError(f"{error}.") from error
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) != 4 or min(numbers) < 0:
        raise UsageError(
            f"{text!r} is no region: write x,y,width,height in pixels, for example 100,200,300,300, or name a file."
        )
    return numbers


def _run(
    engine: Engine, files: Sequence[Path], out: Path, batch_size: int, workers: int
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    folders = _CaseFolders(out)
    items = select(engine, files)
    items_per_batch = 1 if engine.takes_series else batch_size
    columns = (TextColumn("inferring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors) as progress:
        task = progress.add_task("infer", total=sum(len(item.files) for item in items))
        for item, results in run_inputs(engine, items, batch=items_per_batch, threads=workers):
            documents += [_write_result(result, engine, folders) for result in results]
            progress.advance(task, len(item.files))
    return documents


def _write_result(result: Result, engine: Engine, folders: _CaseFolders) -> dict[str, Any]:
    """Write the objects of one case; returns what ``--json`` prints of it."""
    name, version = engine.settings.name, engine.model.version
    written = _write_case(result, name, folders) if isinstance(result, Analysis) else result
    if isinstance(written, (Refusal, Failure)):
        return refusal_document(Refusal(path=written.path, reason=written.reason), name, version)
    return written


def _write_case(analysis: Analysis, engine: str, folders: _CaseFolders) -> dict[str, Any] | Refusal | Failure:
    """Write the objects and the JSON file of one case; returns the JSON object, or why there is none."""
    folder = folders.next_for(analysis.source.sop_instance_uid)
    context = ReportContext(
        job_seed="|".join((folder.name, engine, analysis.model.version)),
        engine_name=engine,
        content_datetime=datetime.now(UTC),
        series_number=series_number(folders.count),
        predecessor=None,
    )
    plain = is_plain_picture(analysis.source.path)
    objects = [] if plain else written_objects([analysis], context)
    if isinstance(objects, (Refusal, Failure)):
        return objects
    folders.make(folder)
    files: list[Path] = []
    counts: dict[str, int] = {}
    for written in objects:
        counts[written.kind] = counts.get(written.kind, 0) + 1
        path = folder / (
            f"{written.kind}.dcm" if written.kind == "sr" else f"{written.kind}-{counts[written.kind]}.dcm"
        )
        written.dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    for number, pixels in enumerate(overlay_pictures(analysis, engine) if plain else (), start=1):
        path = folder / f"overlay-{number}.png"
        Image.fromarray(pixels).save(path)
        files.append(path)
    if analysis.detections is not None:
        files += write_nodule_files(analysis, folder)
    document = case_document(analysis, engine, folder, files)
    (folder / "result.json").write_text(dumps(document, indent=2) + "\n")
    return document


def _write_csv(documents: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(CSV_COLUMNS)
        for d in documents:
            case = [d["input"], d["engine"], d["model_version"]]
            if d["skipped"]:
                writer.writerow([*case, "", "", "", "", "", d["skipped"]])
            deviations = d["ensemble_std"] or [""] * len(d["labels"])
            for row in zip(
                d["labels"], d["probabilities"], d["calibrated_probabilities"], deviations, strict=True
            ):
                writer.writerow([*case, *row, d["disclaimer"] or "", ""])
