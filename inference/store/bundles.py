"""The configuration of a MONAI bundle: which parts of it run code, and which write files."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

BUNDLE_CONFIGS = ("inference.json", "inference.yaml", "inference.yml")

_SAFE_EXPRESSIONS = (
    r"\$@[\w:#.]+(\.to\(@[\w:#.]+\))?",
    r"\$torch\.device\('(cpu|cuda(:\d+)?)'( if torch\.cuda\.is_available\(\) else 'cpu')?\)",
    r"\$torch\.device\(\"(cpu|cuda(:\d+)?)\"( if torch\.cuda\.is_available\(\) else \"cpu\")?\)",
)
"""Expressions that only refer to other entries or name a device."""

_SAFE_TARGET = re.compile(r"(monai\.(networks|transforms|inferers)[\w.]*|torch\.nn\.[\w.]+|[A-Z]\w*)")

_WRITERS = ("SaveImaged", "SaveImage", "SaveClassificationd")

BUNDLE_PARTS = ("network_def", "preprocessing", "inferer", "postprocessing")


def without_writers(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without the transforms that write files."""
    post = config.get("postprocessing")
    if isinstance(post, dict) and isinstance(post.get("transforms"), list):
        kept = [t for t in post["transforms"] if not (isinstance(t, dict) and t.get("_target_") in _WRITERS)]
        return {**config, "postprocessing": {**post, "transforms": kept}}
    return config


def foreign_code(config: Mapping[str, Any]) -> Iterator[str]:
    """Expressions and classes that could run any code, in the parts of a bundle and all entries they refer to."""
    pending, seen = list(BUNDLE_PARTS), set[str]()
    while pending:
        name = pending.pop()
        if name in seen or name not in config:
            continue
        seen.add(name)
        yield from _foreign_entries(config[name])
        pending += re.findall(r"@(\w+)", json.dumps(config[name]))


def _foreign_entries(node: Any) -> Iterator[str]:
    if isinstance(node, str) and node.startswith("$"):
        if not any(re.fullmatch(pattern, node) for pattern in _SAFE_EXPRESSIONS):
            yield node
    elif isinstance(node, Mapping):
        target = node.get("_target_")
        if isinstance(target, str) and _SAFE_TARGET.fullmatch(target) is None:
            yield target
        for value in node.values():
            yield from _foreign_entries(value)
    elif isinstance(node, Sequence) and not isinstance(node, str):
        for value in node:
            yield from _foreign_entries(value)
