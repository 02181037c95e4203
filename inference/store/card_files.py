"""Model cards on disk: read with clear errors, written durably, and kept in a history that only grows."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from inference.errors import ModelInvalid
from inference.store.card import ModelCard

CARD = "card.json"
HISTORY = "history"
"""Name of the folder with every card that a model has had, numbered."""


def read_card(path: Path) -> ModelCard:
    """The card in a file.

    Raises:
        ModelInvalid: the file cannot be read or is no valid card; the message names the first faulty field.
    """
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelInvalid(f"the model card {path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ModelInvalid(f"the model card {path} is wrong: {where}: {first['msg']}.") from error


def write_card(card: ModelCard, folder: Path) -> None:
    """Write a card into a model's folder, without a sync."""
    (folder / CARD).write_text(card.model_dump_json(indent=2) + "\n")


def add_to_history(cards: Sequence[ModelCard], history: Path) -> None:
    """Add cards to a history folder, except those that it already has; no card in it is ever replaced."""
    history.mkdir(exist_ok=True)
    files = sorted(history.glob("*.json"))
    kept = [read_card(file) for file in files]
    last = int(files[-1].stem) if files else 0
    for card in cards:
        if card not in kept:
            kept.append(card)
            last += 1
            write_synced(card, history / f"{last:04d}.json")


def write_synced(card: ModelCard, file: Path) -> None:
    """Replace a card's file atomically and durably."""
    temporary = file.with_name(f".{file.name}.part")
    temporary.write_text(card.model_dump_json(indent=2) + "\n")
    sync(temporary)
    temporary.rename(file)
    sync(file.parent)


def sync(path: Path) -> None:
    """Sync a file, or the entries of a folder, to the disk."""
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
