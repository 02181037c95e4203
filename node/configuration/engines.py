"""The options of ``[[engine]]`` tables that depend on the engine kind, checked by the kind's own model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from inference.engines import engine_class, engine_kinds, registered_kinds
from node.configuration.suggestions import did_you_mean, or_valid_names
from node.configuration.tables import EngineTable
from node.errors import Fault


def options_of(table: EngineTable) -> dict[str, Any]:
    """The options of a checked engine table. Keys in the table itself are left out if they have the default value.

    Those of plug-ins are as they were written: their engine checks them when it is loaded.
    """
    own = table.own_keys
    if not own or table.kind in registered_kinds():
        return {**own, **table.options}
    checked = engine_class(table.kind).options.model_validate({**own, **table.options})
    changed = checked.model_dump(mode="json", exclude_defaults=True)
    return {**{key: value for key, value in changed.items() if key in own}, **table.options}


def engine_faults(tables: Sequence[EngineTable]) -> list[Fault]:
    """Unknown engine kinds, and faults in the options of built-in kinds.

    Options of plug-ins are checked when their engines are loaded, because plug-in code runs nowhere else.
    """
    kinds, plug_ins = engine_kinds(), registered_kinds()
    faults: list[Fault] = []
    for number, table in enumerate(tables):
        prefix = f"engine.{number}"
        if table.kind not in kinds:
            message = f"there is no engine kind {table.kind!r}{or_valid_names(table.kind, kinds)}"
            faults.append(Fault(key=f"{prefix}.kind", message=message))
            continue
        if table.kind not in plug_ins:
            faults += _option_faults(table, prefix)
    return faults


def unknown_keys(tables: Any) -> list[Fault]:
    """The keys of engine tables that neither ``[[engine]]`` nor the engine kind has.

    Args:
        tables: the value of ``engine`` as TOML has it, not checked yet.
    """
    if not isinstance(tables, list):
        return []
    built_in = set(engine_kinds()) - set(registered_kinds())
    faults: list[Fault] = []
    for number, table in enumerate(tables):
        if not isinstance(table, dict) or table.get("kind") not in built_in:
            continue
        valid = [*EngineTable.model_fields, *engine_class(table["kind"]).options.model_fields]
        faults += [
            Fault(key=f"engine.{number}.{key}", message=f"unknown key{did_you_mean(key, valid)}")
            for key in table
            if key not in valid
        ]
    return faults


def _option_faults(table: EngineTable, prefix: str) -> list[Fault]:
    own, model = table.own_keys, engine_class(table.kind).options
    given_twice = sorted(own.keys() & table.options.keys())
    if given_twice:
        return [
            Fault(key=f"{prefix}.options.{key}", message=f"{prefix}.{key} is set as well")
            for key in given_twice
        ]
    try:
        model.model_validate({**own, **table.options})
    except ValidationError as error:
        return [
            _option_fault(item["loc"], item["type"], item["msg"], prefix, own, list(model.model_fields))
            for item in error.errors(include_url=False)
        ]
    return []


def _option_fault(
    location: Sequence[str | int],
    kind: str,
    message: str,
    prefix: str,
    own: dict[str, Any],
    options: list[str],
) -> Fault:
    place = prefix if location[0] in own else f"{prefix}.options"
    key = ".".join([place, *map(str, location)])
    if kind == "extra_forbidden" and len(location) == 1:
        valid = [*EngineTable.model_fields, *options] if location[0] in own else options
        return Fault(key=key, message=f"unknown key{did_you_mean(str(location[0]), valid)}")
    message = message.removeprefix("Value error, ")
    return Fault(key=key, message=message[:1].lower() + message[1:])
