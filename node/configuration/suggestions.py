"""Hints at the valid name that was perhaps meant, for messages about wrong ones."""

from __future__ import annotations

import difflib
from collections.abc import Sequence


def did_you_mean(name: str, valid: Sequence[str]) -> str:
    """A hint at the valid name that is most like a wrong one, or nothing."""
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def or_valid_names(name: str, valid: Sequence[str]) -> str:
    """As ``did_you_mean``, or a list of all valid names if none is like it."""
    return (
        did_you_mean(name, valid)
        or f"; there {'is' if len(valid) == 1 else 'are'} {', '.join(valid) or 'none'}"
    )
