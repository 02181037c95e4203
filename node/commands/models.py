"""``overread models``: what is in the model store, fetching, importing and verifying."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from inference.errors import InferenceError
from inference.store.store import ModelStore
from node.commands.common import ConfigOption, JsonOption, console, errors, load_configuration, print_json
from node.errors import CommandError

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
            stored = store.pull(name, lambda done, total: progress.update(task, completed=done, total=total))
    except InferenceError as error:
        raise CommandError(str(error)) from error
    console.print(f"{stored.card.name} is in the store: {stored.weights.parent}", markup=False)


@models.command(name="import")
def import_model(
    file: Annotated[Path, typer.Argument(help="safetensors with a card beside it, or a PyTorch checkpoint.")],
    name: Annotated[str, typer.Option(help="The name that [[engine]] model = will use.")],
    kind: Annotated[str | None, typer.Option(help="Engine kind, where the file does not say.")] = None,
    labels: Annotated[
        Path | None, typer.Option(help="JSON with the names of classes, where the file has none.")
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Unpickle the file, in a process of its own: it can run any code.")
    ] = False,
    config: ConfigOption = None,
) -> None:
    """Put a local file into the store."""
    if not file.exists():
        raise CommandError(f"{file} does not exist.")
    try:
        stored = _store(config).import_file(file, name=name, kind=kind, labels=labels, trust=trust)
    except InferenceError as error:
        raise CommandError(str(error)) from error
    console.print(f"{stored.card.name} is in the store: {stored.weights.parent}", markup=False)


@models.command()
def verify(config: ConfigOption = None, json: JsonOption = False) -> None:
    """Check the digest of every model."""
    verdicts = _store(config).verify()
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
