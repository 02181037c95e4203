"""Whether models can form an ensemble: they must have the same labels, all else may differ."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from inference.errors import ModelError
from inference.store.card import ModelCard
from inference.store.names import normalised_name
from inference.store.store import ModelStore


def refusal_of(cards: Sequence[ModelCard], kind: str) -> str | None:
    """Why models cannot be averaged in an engine of a kind, as a sentence; None if they can."""
    first, *others = cards
    first_labels = _label_names(first)
    for card in cards:
        if card.kind != kind:
            return f"model {card.name!r} is for {card.kind} engines, not for {kind}."
    for card in others:
        labels = _label_names(card)
        if labels != first_labels:
            differing = ", ".join(sorted(labels ^ first_labels))
            return f"models {first.name!r} and {card.name!r} have different labels: {differing}."
    return None


def refusal_of_models(names: Sequence[str], kind: str, models_dir: Path) -> str | None:
    """Like ``refusal_of``, for models by name; None if a model is absent, since loading it will be refused."""
    store = ModelStore(models_dir)
    try:
        return refusal_of([store.card(name, kind) for name in names], kind)
    except ModelError:
        return None


def _label_names(card: ModelCard) -> set[str]:
    return {normalised_name(label.name) for label in card.reported.values()}
