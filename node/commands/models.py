"""``overread models``: list, fetch, import and verify the models of the store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from inference.engine import Case
from inference.engines import engine_class, engine_kinds
from inference.engines.expected import checks_inputs, learned_expectations
from inference.errors import InferenceError, ModelError
from inference.findings import Refusal
from inference.importing import nnunet
from inference.importing.imports import import_model, pull_model
from inference.importing.torchxrayvision import Normalisation
from inference.importing.trial import refusal_of
from inference.reading.pool import limit_readers
from inference.settings import EngineSettings
from inference.store import DEMONSTRATION, ModelCard, ModelStore, StoredModel
from node.commands.common import ConfigOption, JsonOption, console, errors, load_configuration, print_json
from node.commands.send import find_files
from node.configuration.suggestions import or_valid_names
from node.errors import CommandError, UsageError
from node.steps.inputs import is_image, select

models = typer.Typer(help="The model store.", no_args_is_help=True)


def _store(config: Path | None) -> ModelStore:
    return ModelStore(load_configuration(config).models_dir)


@models.command(name="list")
def list_models(config: ConfigOption = None, json: JsonOption = False) -> None:
    """List the models of the store."""
    entries = _store(config).entries()
    if json:
        print_json([entry.card.model_dump(mode="json") for entry in entries])
        return
    if not entries:
        console.print(
            "The store is empty: `overread models pull NAME` or `overread models import FILE --name NAME`."
        )
        return
    table = Table("name", "kind", "version", "labels", "licence", box=None, pad_edge=False)
    for entry in entries:
        card = entry.card
        table.add_row(
            card.name, card.kind, card.version, str(sum(bool(x.name) for x in card.labels)), card.licence
        )
    console.print(table)


@models.command()
def pull(
    name: Annotated[str, typer.Argument(help="A published weight set, for example densenet121-res224-all.")],
    config: ConfigOption = None,
) -> None:
    """Fetch published weights once and convert them to safetensors with a model card."""
    store = _store(config)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    try:
        with Progress(*columns, console=errors) as progress:
            task = progress.add_task(name, total=None)
            stored = pull_model(
                store, name, lambda done, total: progress.update(task, completed=done, total=total)
            )
    except InferenceError as error:
        raise CommandError(str(error)) from error
    console.print(f"{stored.card.name} is in the store: {stored.weights.parent}", markup=False)


@models.command(name="import")
def import_command(
    file: Annotated[
        Path,
        typer.Argument(
            help="safetensors with a card beside it, a PyTorch checkpoint, or the folder of an nnU-Net model "
            "or a MONAI bundle."
        ),
    ],
    name: Annotated[str, typer.Option(help="The name that [[engine]] model = will use.")],
    kind: Annotated[str | None, typer.Option(help="Engine kind, where the file does not say.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="JSON with the names of classes, where the file has none.")
    ] = None,
    normalisation: Annotated[
        Normalisation | None,
        typer.Option(
            help="How pictures become the network's input, where the file does not say. torchxrayvision: the centre "
            "square, -1024 to 1024. imagenet: three channels, ImageNet's mean and standard deviation. unit: 0 to 1."
        ),
    ] = None,
    published: Annotated[
        str | None,
        typer.Option(
            help="The weight set of `models pull` that the file was downloaded as: it says labels and normalisation."
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle the file, in a process of its own: it can run any code.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Put a local model into the store."""
    _check_import(file, name, kind, labels, normalisation, published)
    store = _store(config)

    def import_into(into: ModelStore) -> StoredModel:
        return import_model(
            into,
            file,
            name=name,
            kind=kind,
            labels=labels,
            normalisation=normalisation,
            published=published,
            trust=trust,
        )

    try:
        present = _present_model(store, name)
        if present is None:
            stored = import_into(store)
        else:
            with TemporaryDirectory(prefix="overread-") as scratch:
                imported = import_into(ModelStore(Path(scratch)))
            if not _is_version_of(imported.card, store, present):
                raise CommandError(
                    f"The store has another model {name!r}: choose another --name, or remove or rename "
                    f"{present.weights.parent} first."
                )
            stored = present
    except InferenceError as error:
        raise CommandError(str(error)) from error
    console.print(
        f"{stored.card.name} is in the store, for {stored.card.kind} engines: {stored.weights.parent}",
        markup=False,
    )


def _check_import(
    file: Path,
    name: str,
    kind: str | None,
    labels: Path | None,
    normalisation: Normalisation | None,
    published: str | None,
) -> None:
    """Check the options of an import.

    Raises:
        UsageError: they cannot be meant; the message says what to write instead.
    """
    if not file.exists():
        raise UsageError(f"{file} does not exist.")
    if name == DEMONSTRATION:
        raise UsageError(
            f"{name!r} is the name of the models that come with overread: choose another --name."
        )
    if kind is not None and kind not in engine_kinds():
        raise UsageError(f"There is no engine kind {kind!r}{or_valid_names(kind, engine_kinds())}")
    if labels is not None and not labels.is_file():
        raise UsageError(f"{labels} does not exist.")
    options = {"kind": kind, "labels": labels, "normalisation": normalisation, "published": published}
    given = {f"--{option}" for option, value in options.items() if value is not None}
    if file.suffix == ".safetensors" and given:
        raise UsageError(f"The card beside {file} says what it is: leave {_joined(given)} out.")
    if file.is_dir() and given - {"--kind"}:
        raise UsageError(f"The files in {file} say what it is: leave {_joined(given - {'--kind'})} out.")
    if published is not None and given != {"--published"}:
        raise UsageError(
            f"The weight set {published} is known: leave {_joined(given - {'--published'})} out."
        )
    if (file / "plans.json").is_file() and kind not in (None, *nnunet.KINDS):
        raise UsageError(f"{file} is an nnU-Net model: --kind may be {' or '.join(nnunet.KINDS)}.")


def _joined(options: set[str]) -> str:
    return " and ".join(sorted(options))


def _present_model(store: ModelStore, name: str) -> StoredModel | None:
    """The model that has the name already; None if there is none, or a damaged one, which an import repairs."""
    try:
        return store.get(name)
    except ModelError:
        return None


def _is_version_of(imported: ModelCard, store: ModelStore, present: StoredModel) -> bool:
    """Whether an imported model is a version of one in the store.

    The file that it came from does not count, nor what ``models expect`` has measured since.
    """
    cards = [present.card, *(version.card for version in store.history(present.card.name))]
    return any(
        imported.model_copy(update={"origin": card.origin, "expects": card.expects}) == card for card in cards
    )


@models.command()
def history(
    name: Annotated[str, typer.Argument(help="A model of the store.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """List the versions that a model has had; calibrations and thresholds make new ones."""
    try:
        versions = _store(config).history(name)
    except InferenceError as error:
        raise CommandError(str(error)) from error
    if json:
        print_json(
            [
                {"version": v.card.identity.version, "used": v.used, "card": v.card.model_dump(mode="json")}
                for v in versions
            ]
        )
        return
    table = Table("version", "calibration", "thresholds of the first label", "", box=None, pad_edge=False)
    for version in versions:
        calibration = version.card.calibration
        labels = [label.as_finding().thresholds for label in version.card.reported.values()]
        table.add_row(
            version.card.identity.version,
            "none" if calibration is None else calibration.method,
            f"{labels[0].low:g} / {labels[0].high:g} / {labels[0].critical:g}" if labels else "",
            "in use" if version.used else "",
        )
    console.print(table)


@models.command()
def use(
    version: Annotated[str, typer.Argument(help="NAME@VERSION, as `overread models history NAME` lists it.")],
    config: ConfigOption = None,
) -> None:
    """Go back to a former version of a model; the present one stays in its history."""
    if "@" not in version:
        raise UsageError(f"Write {version}@VERSION; `overread models history {version}` lists the versions.")
    try:
        stored = _store(config).use(version)
    except InferenceError as error:
        raise CommandError(str(error)) from error
    console.print(f"{stored.card.name} is now version {stored.card.identity.version}.", markup=False)


@models.command()
def expect(
    name: Annotated[str, typer.Argument(help="A model of the store.")],
    images: Annotated[Path, typer.Option(help="Folder with images that it was trained on.")],
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Measure images that a model was made for, and write the limits for others into its card."""
    if not images.is_dir():
        raise UsageError(f"{images} is no folder.")
    configuration = load_configuration(config)
    limit_readers(configuration.reader_limits())
    store = ModelStore(configuration.models_dir)
    try:
        kind = store.get(name).card.kind
        loaded = engine_class(kind).load(
            EngineSettings(name=name, kind=kind, model=name, device="cpu"), store
        )
        if not checks_inputs(loaded):
            raise UsageError(f"Engines of kind {kind} do not check what they are given.")
        files = [file for file in find_files([images]) if is_image(file)]
        cases = [
            case for one in select(loaded, files) if one.refused is None for case in loaded.prepare(one.files)
        ]
        accepted = [case for case in cases if not isinstance(case, Refusal)]
        if not accepted:
            raise CommandError(_refusal_message(cases, images))
        expects = learned_expectations(loaded, accepted)
        store.set_expectations(name, expects)
    except InferenceError as error:
        raise CommandError(str(error)) from error
    if json:
        print_json(expects.model_dump(mode="json"))
        return
    table = Table("figure", "review below", "review above", box=None, pad_edge=False)
    for measure, limits in expects.measures.items():
        table.add_row(measure, *("" if x is None else f"{x:g}" for x in limits.review))
    console.print(table)
    console.print(
        f"The card of {name} now expects what {len(accepted)} cases have; {len(cases) - len(accepted)} were refused.",
        markup=False,
    )


def _refusal_message(cases: Sequence[Case | Refusal], images: Path) -> str:
    reasons = dict.fromkeys(case.reason for case in cases if isinstance(case, Refusal))
    return f"The model takes nothing in {images}: {'; '.join(list(reasons)[:3]) or 'it has no images'}."


@models.command()
def verify(
    config: ConfigOption = None,
    load: Annotated[bool, typer.Option("--load", help="Load each model once, too.")] = False,
    json: JsonOption = False,
) -> None:
    """Check the digest of every model."""
    verdicts = _store(config).verify(refusal_of if load else None)
    if json:
        print_json([{"name": v.name, "ok": v.ok, "message": v.message} for v in verdicts])
    else:
        for verdict in verdicts:
            console.print(
                f"{'[green]ok[/]   ' if verdict.ok else '[red]wrong[/]'} {verdict.name}: {verdict.message}"
            )
        if not verdicts:
            console.print("The store is empty.")
    if not all(verdict.ok for verdict in verdicts):
        raise typer.Exit(1)
