"""The model as reports name it: numbers that settings change have a version of their own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference.findings import ModelIdentity
from inference.store.card import ModelCard

_NUMBERLESS = frozenset({"ensemble", "explanation"})
"""Options that change no number, or that the members' versions stand for."""
_DIGITS = 8


def identity_of(cards: Sequence[ModelCard], options: Mapping[str, Any]) -> ModelIdentity:
    """The models of an engine as one, with the first one's manufacturer.

    The version is the first model's, with a digest of the other models' versions and of the options where there
    are any: the same numbers always have the same version, others never.
    """
    identities = [card.identity for card in cards]
    first = identities[0]
    chosen = {key: value for key, value in options.items() if key not in _NUMBERLESS}
    if len(cards) == 1 and not chosen:
        return first
    settled = json.dumps([[one.version for one in identities[1:]], chosen], sort_keys=True, default=str)
    return replace(
        first,
        name=" + ".join(dict.fromkeys(one.name for one in identities)),
        version=f"{first.version}.{hashlib.sha256(settled.encode()).hexdigest()[:_DIGITS]}",
        licence=", ".join(dict.fromkeys(one.licence for one in identities)),
        demonstration=any(one.demonstration for one in identities),
    )
