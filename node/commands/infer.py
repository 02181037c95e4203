"""``overread infer``: an engine on files, without a node; the same steps as the node's pipeline."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference.engine import Case, Engine
from inference.engines import engine_class
from inference.errors import DeviceLost, ImageUnreadable, InferenceError, is_out_of_memory
from inference.findings import Analysis, Refusal
from inference.nodule_files import write_nodule_files
from inference.output import case_document, refusal_document
from inference.plain_pictures import is_plain_picture
from inference.reader.pool import limit_readers
from inference.reading import read_header, read_region
from inference.store.store import ModelStore
from inference.volumes.header import quick_header
from node.commands.common import ConfigOption, JsonOption, console, errors, load_configuration, print_json
from node.commands.send import find_files
from node.errors import CommandError, raised_at
from node.pipeline import check_device
from sr_writer.context import ReportContext
from sr_writer.results import write_results


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
    names = [entry.name for entry in configuration.engine]
    if engine not in names:
        raise CommandError(
            f"There is no engine {engine!r} in {configuration.file}: it has {', '.join(names) or 'none'}."
        )
    settings = configuration.engine_settings(engine)
    if roi is not None:
        settings = replace(settings, options={**settings.options, "roi": _region(roi)})
    try:
        loaded = engine_class(settings.kind).load(settings, ModelStore(configuration.models_dir))
    except InferenceError as error:
        raise CommandError(str(error)) from error
    files = [path for path in find_files(paths) if is_plain_picture(path) or _is_dicom(path)]
    if not files:
        raise CommandError("There is no DICOM, PNG or JPEG file in what you named.")
    out.mkdir(parents=True, exist_ok=True)
    try:
        documents = _run(loaded, files, out, batch_size, workers)
    except DeviceLost as error:
        raise CommandError(f"Device {error} answers no more: run the command again.") from error
    for path in paths:
        if path.is_file() and path not in files:
            strange = Refusal(path=path, reason="it is no DICOM, PNG or JPEG file")
            documents.append(refusal_document(strange, loaded.settings.name, loaded.model.version))
    _write_csv(documents, out / "results.csv")
    if json:
        print_json(documents)
        return
    skipped = [d for d in documents if d["skipped"]]
    done = [d for d in documents if not d["skipped"]]
    for document in skipped:
        console.print(f"skipped {document['input']}: {document['skipped']}", markup=False)
    mean = sum(d["inference_time_ms"] for d in done) / len(done) if done else 0.0
    console.print(
        f"{len(done)} cases, {len(skipped)} skipped, {mean:.0f} ms a case; results in {out}", markup=False
    )
    if not done:
        raise typer.Exit(1)


def _region(text: str) -> list[int]:
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
        raise CommandError(
            f"{text!r} is no region: write x,y,width,height in pixels, for example 100,200,300,300, or name a file."
        )
    return numbers


def _is_dicom(path: Path) -> bool:
    """Whether a file says that it is DICOM (PS3.10 section 7.1); what is wrong with it shows when it is read."""
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM" and path.name != "DICOMDIR"
    except OSError:
        return False


def _run(
    engine: Engine, files: Sequence[Path], out: Path, batch_size: int, workers: int
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    columns = (TextColumn("inferring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor(workers) as readers, Progress(*columns, console=errors) as progress:
        task = progress.add_task("infer", total=len(files))
        inputs = _by_series(files) if engine.takes_series else [[file] for file in files]
        at_once = 1 if engine.takes_series else batch_size
        for start in range(0, len(inputs), at_once):
            batch = inputs[start : start + at_once]
            read: list[Case | Refusal] = [
                item for items in readers.map(engine.prepare, batch) for item in items
            ]
            analyses = iter(_analyse(engine, [case for case in read if not isinstance(case, Refusal)]))
            for item in read:
                made = item if isinstance(item, Refusal) else next(analyses)
                documents.append(_document(made, engine, out))
            progress.advance(task, sum(len(files) for files in batch))
    return documents


def _analyse(engine: Engine, cases: Sequence[Case]) -> list[Analysis | Refusal]:
    """The analysis of each case or why there is none; a batch that fails is tried again in halves, as by a node."""
    if not cases:
        return []
    try:
        return list(engine.infer(cases))
    except InferenceError as error:
        reason = str(error)
    except Exception as error:
        # Engines run foreign code, which raises what it likes; one case's fault is its own.
        reason = f"the engine failed on this input ({type(error).__name__} at {raised_at(error)})"
        if is_out_of_memory(error):
            reason = "the device has too little memory for this input alone"
    # Only here, where the error is gone: its frames hold what the batch has on the device.
    check_device(engine.device)
    if len(cases) > 1:
        middle = len(cases) // 2
        return [*_analyse(engine, cases[:middle]), *_analyse(engine, cases[middle:])]
    return [Refusal(path=cases[0].source.path, reason=reason)]


def _document(made: Analysis | Refusal, engine: Engine, out: Path) -> dict[str, Any]:
    """What ``--json`` prints of one case, whose objects are written."""
    name, version = engine.settings.name, engine.model.version
    if isinstance(made, Refusal):
        return refusal_document(made, name, version)
    try:
        return _write(made, name, engine.kind, out)
    except OSError:
        raise
    except Exception as error:
        # As in the pipeline: the report library refuses odd headers in many ways, each its own case.
        reason = f"the report cannot be written from this source ({type(error).__name__})"
        return refusal_document(Refusal(path=made.source.path, reason=reason), name, version)


def _by_series(files: Sequence[Path]) -> list[list[Path]]:
    """Files grouped by Series Instance UID, in the order in which the series appear."""
    series: dict[str, list[Path]] = {}
    for file in files:
        series.setdefault(_series_of(file), []).append(file)
    return list(series.values())


def _series_of(path: Path) -> str:
    """Series Instance UID of a file; the file's own name where its header cannot be read."""
    quick = quick_header(path)
    if quick is not None:
        return quick.values.get("SeriesInstanceUID", "")
    try:
        return read_header(path, ["SeriesInstanceUID"]).first("SeriesInstanceUID")
    except ImageUnreadable:
        return str(path)


def _write(analysis: Analysis, engine: str, engine_kind: str, out: Path) -> dict[str, Any]:
    """Write one case's objects and JSON; the document that ``--json`` prints."""
    folder = out / analysis.source.sop_instance_uid
    folder.mkdir(parents=True, exist_ok=True)
    context = ReportContext(
        job_seed="|".join((analysis.source.sop_instance_uid, engine, analysis.model.version)),
        engine_name=engine,
        content_datetime=datetime.now(UTC),
        series_number=9000,
        predecessor=None,
    )
    files: list[Path] = []
    counts: dict[str, int] = {}
    plain = is_plain_picture(analysis.source.path)
    for written in [] if plain else write_results([analysis], context):
        counts[written.kind] = counts.get(written.kind, 0) + 1
        path = folder / (
            f"{written.kind}.dcm" if written.kind == "sr" else f"{written.kind}-{counts[written.kind]}.dcm"
        )
        written.dataset.save_as(path, enforce_file_format=True)
        files.append(path)
    if analysis.volume is not None and engine_kind == "lung_nodule":
        files += write_nodule_files(analysis, folder)
    document = case_document(analysis, engine, folder, files)
    (folder / "result.json").write_text(dumps(document, indent=2) + "\n")
    return document


def _write_csv(documents: Sequence[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["input", "engine", "model_version", "label", "probability", "calibrated_probability", "skipped"]
        )
        for d in documents:
            if d["skipped"]:
                writer.writerow([d["input"], d["engine"], d["model_version"], "", "", "", d["skipped"]])
            for row in zip(d["labels"], d["probabilities"], d["calibrated_probabilities"], strict=True):
                writer.writerow([d["input"], d["engine"], d["model_version"], *row, ""])
