"""The modules that rooms may import of each other, read from the rooms themselves."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("db", "handlers", "inference", "sr_writer")


def public_modules(room: str) -> list[str]:
    """What a room's ``PUBLIC`` names; without one, the room itself."""
    names = getattr(importlib.import_module(room), "PUBLIC", None)
    return [room] if names is None else [f"{room}.{name}" for name in names]


def private_modules(room: str) -> list[str]:
    """Modules and packages of a room that others may not import: whole packages where nothing in them is public."""
    public = public_modules(room)

    def private(folder: Path) -> list[str]:
        found: list[str] = []
        for path in sorted(folder.iterdir()):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            if path.suffix == ".py" and path.stem != "__init__" and name not in public:
                found.append(name)
            elif (path / "__init__.py").is_file():
                of_package = name in public or any(module.startswith(name + ".") for module in public)
                found += private(path) if of_package else [name]
        return found

    return private(ROOT / room)


def used_names(room: str) -> dict[str, list[str]]:
    """What other rooms take of a room, by module: what changes there, changes for them."""
    used: dict[str, set[str]] = {module: set() for module in public_modules(room)}
    for other in (*ROOMS, "node"):
        for file in (ROOT / other).rglob("*.py") if other != room else ():
            for node in ast.walk(ast.parse(file.read_text())):
                if not isinstance(node, ast.ImportFrom) or node.module is None:
                    continue
                for alias in node.names:
                    module = f"{node.module}.{alias.name}"
                    if module in used:
                        used[module].update(_attributes(file, alias.asname or alias.name))
                    elif node.module in used:
                        used[node.module].add(alias.name)
    return {module: sorted(names) for module, names in used.items()}


def _attributes(file: Path, name: str) -> set[str]:
    """What is taken of an imported module by its name."""
    return {
        node.attr
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }
