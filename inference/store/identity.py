"""The model as reports name it, with a version that also depends on settings that change its numbers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from inference.findings import ModelIdentity
from inference.store.card import ModelCard

_OPTIONS_LEFT_OUT = frozenset({"ensemble", "explanation"})
"""Options that change no number, or that the versions of the ensemble's members already express."""
_DIGITS = 8


def identity_of(cards: Sequence[ModelCard], options: Mapping[str, Any]) -> ModelIdentity:
    """The models of an engine as one model, with the manufacturer of the first.

    The version is the first model's. If there are other models or options, a digest of their versions and values is
    added. So equal numbers always have the same version, and different numbers never do.
    """
    identities = [card.identity for card in cards]
    first = identities[0]
    numeric_options = {key: value for key, value in options.items() if key not in _OPTIONS_LEFT_OUT}
    if len(cards) == 1 and not numeric_options:
        return first
    version_parts = json.dumps(
        [[one.version for one in identities[1:]], numeric_options], sort_keys=True, default=str
    )
    return replace(
        first,
        name=" + ".join(dict.fromkeys(one.name for one in identities)),
        version=f"{first.version}.{hashlib.sha256(version_parts.encode()).hexdigest()[:_DIGITS]}",
        licence=", ".join(dict.fromkeys(one.licence for one in identities)),
        demonstration=any(one.demonstration for one in identities),
    )
