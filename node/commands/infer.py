"""``overread infer``: an engine on files, without a node; the same steps as the node's pipeline."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from inference.checking.plausibility import nothing_left
from inference.engine import Case, Engine
from inference.engines import engine_class
from inference.errors import DeviceLost, ImageUnreadable, InferenceError, is_out_of_memory
from inference.findings import Analysis, Refusal
from inference.offline.nodule_files import write_nodule_files
from inference.offline.output import case_document, refusal_document
from inference.reading.files import read_region
from inference.reading.plain import is_plain_picture
from inference.reading.pool import limit_readers
from inference.store.store import ModelStore
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
from node.errors import CommandError, UsageError, raised_at
from node.steps.inputs import Input, is_image, select
from node.steps.pipeline import TOO_LITTLE_MEMORY, check_device, series_number
from sr_writer.context import ReportContext
from sr_writer.results import overlay_pictures, write_results

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
OF_A_CASE = (
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
"""The files that are written to the folder of a case, as patterns."""


class _Folders:
    """The folders of one run's cases: each case has one of its own, though UIDs and file names may come twice."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._taken = {CSV}

    @property
    def given(self) -> int:
        """How many there are."""
        return len(self._taken) - 1

    def of(self, name: str) -> Path:
        """A folder for one more case of that name, without what an earlier run wrote there."""
        chosen, number = name, 1
        while chosen in self._taken:
            number += 1
            chosen = f"{name}-{number}"
        self._taken.add(chosen)
        folder = self._out / chosen
        folder.mkdir(parents=True, exist_ok=True)
        for pattern in OF_A_CASE:
            for former in folder.glob(pattern):
                former.unlink()
        return folder


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
        settings = replace(settings, options={**settings.options, "roi": _region(roi)})
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
        raise CommandError(f"Device {error} answers no more: run the command again.") from error
    for path in paths:
        if path.is_file() and path not in files:
            strange = Refusal(path=path, reason="it is no DICOM, PNG or JPEG file")
            documents.append(refusal_document(strange, loaded.settings.name, loaded.model.version))
    _write_csv(documents, out / CSV)
    if json:
        print_json(documents)
    else:
        _print(documents, out)
    if all(document["skipped"] for document in documents):
        raise typer.Exit(1)


def _print(documents: Sequence[dict[str, Any]], out: Path) -> None:
    skipped = [d for d in documents if d["skipped"]]
    done = [d for d in documents if not d["skipped"]]
    for document in skipped:
        console.print(f"skipped {document['input']}: {document['skipped']}", markup=False)
    mean = sum(d["inference_time_ms"] for d in done) / len(done) if done else 0.0
    console.print(
        f"{len(done)} cases, {len(skipped)} skipped, {mean:.0f} ms a case; results in {out}", markup=False
    )


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
        raise UsageError(
            f"{text!r} is no region: write x,y,width,height in pixels, for example 100,200,300,300, or name a file."
        )
    return numbers


def _run(
    engine: Engine, files: Sequence[Path], out: Path, batch_size: int, workers: int
) -> list[dict[str, Any]]:
    documents: list[dict[str, Any]] = []
    folders = _Folders(out)
    inputs = select(engine, files)
    at_once = 1 if engine.takes_series else batch_size
    columns = (TextColumn("inferring"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor(workers) as readers, Progress(*columns, console=errors) as progress:
        task = progress.add_task("infer", total=sum(len(one.files) for one in inputs))
        for start in range(0, len(inputs), at_once):
            batch = inputs[start : start + at_once]
            read: list[Case | Refusal] = [
                item for items in readers.map(partial(_prepare, engine), batch) for item in items
            ]
            analyses = iter(_analyse(engine, [case for case in read if not isinstance(case, Refusal)]))
            for item in read:
                made = item if isinstance(item, Refusal) else next(analyses)
                documents.append(_document(made, engine, folders))
            progress.advance(task, sum(len(one.files) for one in batch))
    return documents


def _prepare(engine: Engine, item: Input) -> Sequence[Case | Refusal]:
    if item.refused is not None:
        return [Refusal(path=item.files[0], reason=item.refused)]
    return engine.prepare(item.files)


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
            reason = TOO_LITTLE_MEMORY
    # Only here, where the error is gone: its frames hold what the batch has on the device.
    check_device(engine.device)
    if len(cases) > 1:
        middle = len(cases) // 2
        return [*_analyse(engine, cases[:middle]), *_analyse(engine, cases[middle:])]
    return [Refusal(path=cases[0].source.path, reason=reason)]


def _document(made: Analysis | Refusal, engine: Engine, folders: _Folders) -> dict[str, Any]:
    """What ``--json`` prints of one case, whose objects are written."""
    name, version = engine.settings.name, engine.model.version
    if isinstance(made, Refusal):
        return refusal_document(made, name, version)
    reason = nothing_left([made])
    if reason is not None:
        return refusal_document(Refusal(path=made.source.path, reason=reason), name, version)
    try:
        return _write(made, name, engine.kind, folders)
    except OSError:
        raise
    except Exception as error:
        # As in the pipeline: the report library refuses odd headers in many ways, each its own case.
        reason = f"the report cannot be written from this source ({type(error).__name__})"
        return refusal_document(Refusal(path=made.source.path, reason=reason), name, version)


def _write(analysis: Analysis, engine: str, engine_kind: str, folders: _Folders) -> dict[str, Any]:
    """Write one case's objects and JSON; the document that ``--json`` prints."""
    folder = folders.of(analysis.source.sop_instance_uid)
    context = ReportContext(
        job_seed="|".join((folder.name, engine, analysis.model.version)),
        engine_name=engine,
        content_datetime=datetime.now(UTC),
        series_number=series_number(folders.given - 1),
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
