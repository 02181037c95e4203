"""Whether models can be one ensemble: the same findings, whatever else is their own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inference.errors import ModelError
from inference.store.card import ModelCard
from inference.store.names import normalised_name
from inference.store.store import ModelStore


def refusal_of(cards: Sequence[ModelCard], kind: str) -> str | None:
    """Why the models of an engine cannot be averaged, as a sentence; None if they can."""
    first, *others = cards
    wanted = _findings(first)
    for card in cards:
        if card.kind != kind:
            return f"model {card.name!r} is for {card.kind} engines, not for {kind}."
    for card in others:
        found = _findings(card)
        if found != wanted:
            apart = ", ".join(sorted(found ^ wanted))
            return f"models {first.name!r} and {card.name!r} have different labels: {apart}."
    return None


def refusal_of_models(names: Sequence[str], kind: str, models_dir: Path) -> str | None:
    """The same of models by name, where all of them are in the store; what is absent is refused when it is loaded."""
    store = ModelStore(models_dir)
    try:
        return refusal_of([store.card(name, kind) for name in names], kind)
    except ModelError:
        return None


def _findings(card: ModelCard) -> set[str]:
    return {normalised_name(label.name) for label in card.reported.values()}
