"""``overread calibrate``: fits a calibration on labelled cases, and keeps it in the model card if it helps."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from json import loads
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import typer
from rich.progress import Progress
from rich.table import Table

from inference.engine import Engine
from inference.engines import engine_class
from inference.errors import InferenceError
from inference.findings import Analysis
from inference.offline.calibration_trial import CalibrationTrial, reliability_diagram, try_calibration
from inference.reading.pool import limit_readers
from inference.store import ModelCard, ModelStore
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
from node.line.work import Failure
from node.steps.inputs import is_image, run_inputs, select

THREADS = 2
BATCH_SIZE = 8


def calibrate(
    engine: Annotated[str, typer.Option(help="An [[engine]] of the configuration.")],
    labels: Annotated[
        Path,
        typer.Option(
            help="CSV: a column `input` with a file of each case, its folder or its Series Instance UID, and a column "
            "of 0, 1 or nothing for each label. The end of a path is enough if it names only one case."
        ),
    ],
    images: Annotated[Path | None, typer.Option(help="Folder of the images that the CSV names.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="Folder that `overread infer` wrote, instead of images.")
    ] = None,
    method: Annotated[
        Literal["temperature", "platt", "isotonic"], typer.Option(help="How to calibrate.")
    ] = "temperature",
    diagram: Annotated[Path, typer.Option(help="Where to draw the reliability diagram.")] = Path(
        "reliability.png"
    ),
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Fit a calibration; held-out cases decide whether the model card keeps it."""
    if (images is None) == (results is None):
        raise UsageError("Name either --images or --results.")
    for path in (labels, images, results):
        if path is not None and not path.exists():
            raise UsageError(f"{path} does not exist.")
    configuration = load_configuration(config)
    limit_readers(configuration.reader_limits())
    settings = engine_settings(configuration, engine)
    if not getattr(engine_class(settings.kind), "calibrates", True):
        raise UsageError(f"Engines of kind {settings.kind} cannot apply a calibration.")
    if settings.options.get("ensemble"):
        raise UsageError(f"Engine {engine} has several models: calibrate each in an [[engine]] of its own.")
    store = ModelStore(configuration.models_dir)
    try:
        stored = store.get(settings.model, settings.kind)
        truth = _read_labels(labels, stored.card)
        if images is not None:
            logits = _inferred_logits(
                engine_class(settings.kind).load(settings, store), images, truth, stored.card
            )
        else:
            assert results is not None
            logits = _stored_logits(results, truth, stored.card)
        names = [name for name in truth if name in logits]
        if not names:
            raise CommandError(
                f"{labels} names no case of {images or results}: `input` has to be a file or folder there, or the "
                "end of its path, or a Series Instance UID."
            )
        trial = try_calibration(
            method,
            np.array([logits[name] for name in names]),
            np.array([truth[name] for name in names]),
            stored.card.activation,
        )
        reliability_diagram(trial).save(diagram)
        if trial.better:
            stored = store.set_calibration(settings.model, trial.calibration)
    except InferenceError as error:
        raise CommandError(str(error)) from error
    if json:
        print_json({**_document(trial, diagram), "model_version": stored.card.identity.version})
    else:
        _print(trial, diagram, stored.card, settings.model)
    if not trial.better:
        raise typer.Exit(1)


def _read_labels(file: Path, card: ModelCard) -> dict[str, list[float]]:
    """Read the CSV with the true labels.

    Returns:
        By the path or UID of each case, 0.0, 1.0 or NaN (not known) for each output of the model.

    Raises:
        CommandError: the file cannot be used.
    """
    try:
        with file.open(newline="") as opened:
            rows = list(csv.DictReader(opened))
    except OSError as error:
        raise CommandError(f"{file} cannot be read: {error.strerror}.") from error
    known = [label.name for label in card.labels if label.name]
    if not rows or "input" not in rows[0] or not set(rows[0]) & set(known):
        raise CommandError(
            f"{file} needs a column `input` and columns of labels such as {', '.join(known[:3])}."
        )
    truth: dict[str, list[float]] = {}
    for row in rows:
        values = [str(row.get(label.name) or "").strip() if label.name else "" for label in card.labels]
        if any(value not in ("", "0", "1") for value in values):
            raise CommandError(f"{file}: the labels of {row['input']} have to be 0, 1 or empty.")
        labels = [float(value) if value else float("nan") for value in values]
        if not np.array_equal(
            truth.setdefault(str(Path(row["input"] or "")), labels), labels, equal_nan=True
        ):
            raise CommandError(f"{file} has {row['input']} twice, with different labels.")
    return truth


def _inferred_logits(
    engine: Engine, images: Path, truth: dict[str, list[float]], card: ModelCard
) -> dict[str, list[float]]:
    """Run the engine on each case that the labels name; returns its logits. A series is one case."""
    cases = [
        (name, item)
        for item in select(engine, [path for path in find_files([images]) if is_image(path)])
        if item.refused is None
        and (name := _case_name(item.files, item.series_instance_uid, truth)) is not None
    ]
    _check_distinct([name for name, _ in cases])
    batch_size = 1 if engine.takes_series else BATCH_SIZE
    logits: dict[str, list[float]] = {}
    with Progress(console=errors) as progress:
        task = progress.add_task("inferring", total=len(cases))
        runs = run_inputs(engine, [item for _, item in cases], batch=batch_size, threads=THREADS)
        for (name, _), (_, results) in zip(cases, runs, strict=True):
            # A series may have several volumes; the first is the largest.
            analysis = results[0]
            if isinstance(analysis, Failure):
                raise CommandError(f"{name}: {analysis.reason}.")
            if isinstance(analysis, Analysis):
                by_name = {finding.label.name: finding.logit for finding in analysis.findings}
                if analysis.absence is not None:
                    by_name[analysis.absence.name] = analysis.absence.logit
                logits[name] = _in_output_order(by_name, card, name)
            progress.advance(task)
    return logits


def _stored_logits(folder: Path, truth: dict[str, list[float]], card: ModelCard) -> dict[str, list[float]]:
    """Read the logits of each case that the labels name from the results of ``overread infer``."""
    found: list[tuple[str, list[float]]] = []
    for file in sorted(folder.rglob("result.json")):
        document = loads(file.read_text())
        name = _case_name([Path(document["input"])], document.get("series_instance_uid") or "", truth)
        if name is None or document["skipped"]:
            continue
        by_name = dict(zip(document["labels"], document["logits"], strict=True))
        absence = document.get("negative_class")
        if absence is not None:
            by_name[absence["label"]] = absence["logit"]
        found.append((name, _in_output_order(by_name, card, name)))
    _check_distinct([name for name, _ in found])
    return dict(found)


def _check_distinct(names: Sequence[str]) -> None:
    """Refuse labels that fit several cases: files of different series often have the same names.

    Raises:
        CommandError: a name occurs twice.
    """
    for name, cases in Counter(names).items():
        if cases > 1:
            raise CommandError(
                f"The labels of {name} fit {cases} cases: write more of the path, or the Series Instance UID."
            )


def _case_name(files: Sequence[Path], series_uid: str, truth: dict[str, list[float]]) -> str | None:
    """The name by which the labels have a case, None if they do not have it.

    A case may be named by its Series Instance UID, or by the end of the path of a file or of its folder.

    Raises:
        CommandError: the labels have it by several names and contradict each other.
    """
    known = {series_uid}
    for file in files:
        parts = file.absolute().parts
        known.update(
            str(Path(*parts[start:end])) for end in (len(parts) - 1, len(parts)) for start in range(end)
        )
    names = [name for name in truth if name in known]
    for other in names[1:]:
        if not np.array_equal(truth[names[0]], truth[other], equal_nan=True):
            raise CommandError(f"The labels call one case {names[0]} and {other}, and differ.")
    return names[0] if names else None


def _in_output_order(by_name: dict[str, float], card: ModelCard, case: str) -> list[float]:
    """The logits in the order of the model's outputs. An output without a name gets 0.0, which no sigmoid fit uses.

    Raises:
        CommandError: a logit is missing that the fit needs.
    """
    for label in card.labels:
        if label.name and label.name not in by_name:
            raise CommandError(
                f"{case} has no logit of {label.name}: run `overread infer` on it again, "
                "or take it out of the labels."
            )
        if not label.name and card.activation == "softmax":
            raise CommandError(
                f"The card of {card.name} has outputs without a name, and results have no logits of them: "
                "name them to calibrate the softmax."
            )
    return [by_name.get(label.name, 0.0) for label in card.labels]


def _document(trial: CalibrationTrial, diagram: Path) -> dict[str, Any]:
    return {
        "method": trial.calibration.method,
        "held_out": trial.held_out,
        "kept": trial.better,
        "before": vars(trial.before),
        "after": vars(trial.after),
        "diagram": str(diagram),
    }


def _print(trial: CalibrationTrial, diagram: Path, card: ModelCard, model: str) -> None:
    table = Table("", "before", "after", title=f"{trial.held_out} held-out cases", title_justify="left")
    for name, key in (
        ("expected calibration error", "expected_calibration_error"),
        ("Brier score", "brier_score"),
        ("log loss", "log_loss"),
    ):
        table.add_row(name, f"{getattr(trial.before, key):.4f}", f"{getattr(trial.after, key):.4f}")
    console.print(table)
    console.print(f"Reliability diagram: {diagram}", markup=False)
    if trial.better:
        console.print(
            f"{card.name} now has this {trial.calibration.method} calibration, as version "
            f"{card.identity.version}; `overread models history {card.name}` lists the former ones.",
            markup=False,
        )
        if model.startswith(f"{card.name}@"):
            console.print(f"The engine has it once its model is {card.name}, not {model}.", markup=False)
    else:
        console.print("The calibration does not help on the held-out cases and was not kept.", markup=False)
