"""What ``[[engine]]`` tables have of their engine kind's own, checked by the kind's model of its options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from inference.engines import engine_class, engine_kinds, registered_kinds
from node.configuration.tables import EngineTable, known, nearest
from node.errors import Fault


def options_of(table: EngineTable) -> dict[str, Any]:
    """The options of an engine whose table was checked; keys of the table itself only where they change a default."""
    own = table.own_keys
    if not own:
        return table.options
    checked = engine_class(table.kind).options.model_validate({**own, **table.options})
    changed = checked.model_dump(mode="json", exclude_defaults=True)
    return {**{key: value for key, value in changed.items() if key in own}, **table.options}


def engine_faults(tables: Sequence[EngineTable]) -> list[Fault]:
    """Kinds that there are not, and what is wrong with the options of the built-in others.

    Code of other distributions runs only where their engines are loaded, which checks their options.
    """
    kinds, foreign = engine_kinds(), registered_kinds()
    faults: list[Fault] = []
    for number, table in enumerate(tables):
        at = f"engine.{number}"
        if table.kind not in kinds:
            message = f"there is no engine kind {table.kind!r}{known(table.kind, kinds)}"
            faults.append(Fault(key=f"{at}.kind", message=message))
            continue
        if table.kind not in foreign:
            faults += _option_faults(table, at)
    return faults


def unknown_keys(tables: Any) -> list[Fault]:
    """Keys of engine tables, as TOML has them, that neither all tables nor those of their kind have."""
    if not isinstance(tables, list):
        return []
    built_in = set(engine_kinds()) - set(registered_kinds())
    faults: list[Fault] = []
    for number, table in enumerate(tables):
        if not isinstance(table, dict) or table.get("kind") not in built_in:
            continue
        valid = [*EngineTable.model_fields, *engine_class(table["kind"]).options.model_fields]
        faults += [
            Fault(key=f"engine.{number}.{key}", message=f"unknown key{nearest(key, valid)}")
            for key in table
            if key not in valid
        ]
    return faults


def _option_faults(table: EngineTable, at: str) -> list[Fault]:
    own, model = table.own_keys, engine_class(table.kind).options
    twice = sorted(own.keys() & table.options.keys())
    if twice:
        return [Fault(key=f"{at}.options.{key}", message=f"{at}.{key} says it too") for key in twice]
    try:
        model.model_validate({**own, **table.options})
    except ValidationError as error:
        return [
            _fault(item["loc"], item["type"], item["msg"], at, own, list(model.model_fields))
            for item in error.errors(include_url=False)
        ]
    return []


def _fault(
    location: Sequence[str | int], kind: str, message: str, at: str, own: dict[str, Any], options: list[str]
) -> Fault:
    place = at if location[0] in own else f"{at}.options"
    key = ".".join([place, *map(str, location)])
    if kind == "extra_forbidden" and len(location) == 1:
        valid = [*EngineTable.model_fields, *options] if location[0] in own else options
        return Fault(key=key, message=f"unknown key{nearest(str(location[0]), valid)}")
    message = message.removeprefix("Value error, ")
    return Fault(key=key, message=message[:1].lower() + message[1:])
