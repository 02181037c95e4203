"""Reads and checks a configuration: the file, then the environment. Every fault is named by its key."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import UnionType
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from handlers.errors import TlsMisconfigured
from handlers.upper_layer.tls import client_context, server_context
from node.configuration.configuration import DEFAULT_FILE, Configuration
from node.configuration.engines import engine_faults, unknown_keys
from node.configuration.suggestions import did_you_mean, or_valid_names
from node.errors import ConfigurationError, Fault

ENVIRONMENT_PREFIX = "OVERREAD_"


def find_file(file: Path | None) -> Path:
    """The configuration file: the given one, ``OVERREAD_CONFIG``, or config.toml in the working folder.

    Raises:
        ConfigurationError: it does not exist.
    """
    chosen = file or Path(os.environ.get(ENVIRONMENT_PREFIX + "CONFIG") or DEFAULT_FILE)
    if not chosen.is_file():
        raise ConfigurationError(
            chosen, [Fault(key="", message="no such file: name one with -c FILE or OVERREAD_CONFIG")]
        )
    return chosen


def load(
    file: Path | None = None, environment: Mapping[str, str] | None = None, *, check_engines: bool = True
) -> Configuration:
    """Read and check a configuration.

    Args:
        file: the file, or None for the default one (``find_file``).
        environment: the variables, or None for those of this process.
        check_engines: check engine options too, which imports the engines. The supervisor has done it for its children.

    Raises:
        ConfigurationError: with every fault, its dotted key and the nearest valid name.
    """
    path = find_file(file)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(path, [Fault(key="", message=f"not valid TOML: {error}")]) from None
    variables = _apply_environment(raw, os.environ if environment is None else environment)
    try:
        configuration = Configuration.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        faults = _validation_faults(error) + (unknown_keys(raw.get("engine")) if check_engines else [])
        raise ConfigurationError(path, _with_variables(faults, variables)) from None
    configuration = configuration.model_copy(update={"file": path})
    faults = _reference_faults(configuration)
    if check_engines:
        engines = engine_faults(configuration.engine)
        faults += engines or _ensemble_faults(configuration)
    if faults:
        raise ConfigurationError(path, _with_variables(faults, variables))
    return configuration


def _apply_environment(raw: dict[str, Any], environment: Mapping[str, str]) -> dict[str, str]:
    """Overwrite values of the file by ``OVERREAD_<SECTION>__<KEY>``.

    Returns:
        The name of the variable by each key that one sets.
    """
    variables: dict[str, str] = {}
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if section not in raw:
            variables[section] = name
        table = raw.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = _environment_value(section, key, text)
            variables[f"{section}.{key}"] = name
    return variables


def _environment_value(section: str, key: str, text: str) -> Any:
    """A variable parsed as TOML, or as plain text if it is no TOML or the key takes text."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    table = _table_of(Configuration, section)
    if table is not None and key in table.model_fields:
        annotation = table.model_fields[key].annotation
        if annotation is str or (isinstance(annotation, UnionType) and str in get_args(annotation)):
            return value if isinstance(value, str) else text
    return {"true": True, "false": False}.get(text.lower(), value)


def _with_variables(faults: Sequence[Fault], variables: Mapping[str, str]) -> list[Fault]:
    """The faults, with the variable for values from the environment."""
    return [replace(fault, variable=variables.get(fault.key, "")) for fault in faults]


def _validation_faults(error: ValidationError) -> list[Fault]:
    """The errors of pydantic in our words, one for each key."""
    faults: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        location = item["loc"]
        parts = [str(p) for p in location if not (isinstance(p, str) and p.endswith("Condition"))]
        if "match" in parts:
            parts = parts[: parts.index("match") + 2]
        key = ".".join(parts)
        if item["type"] == "extra_forbidden" and "match" not in parts:
            name = str(location[-1])
            faults[key] = Fault(key=key, message=f"unknown key{did_you_mean(name, _keys_at(location[:-1]))}")
        elif "match" in parts and item["type"] != "value_error":
            message = "use a list, a regular expression, {min=, max=} or {absent=true}"
            faults.setdefault(key, Fault(key=key, message=message))
        elif item["type"] == "tuple_type" and len(location) == 1 and isinstance(item["input"], dict):
            faults[key] = Fault(key=key, message=f"there can be several of these: write [[{key}]]")
        elif item["type"] == "model_type" and len(location) == 1 and isinstance(item["input"], list):
            faults[key] = Fault(key=key, message=f"there is one of these: write [{key}]")
        else:
            message = item["msg"].removeprefix("Value error, ")
            faults.setdefault(key, Fault(key=key, message=message[:1].lower() + message[1:]))
    return list(faults.values())


def _keys_at(location: Sequence[str | int]) -> list[str]:
    """The valid keys of the table at a place in the configuration."""
    model: type[BaseModel] = Configuration
    for part in location:
        if isinstance(part, int):
            continue
        table = _table_of(model, part)
        if table is None:
            return []
        model = table
    return [name for name in model.model_fields if name != "file"]


def _table_of(model: type[BaseModel], key: str) -> type[BaseModel] | None:
    """The type of the table, or list of tables, that a key holds; None where it holds none."""
    if key not in model.model_fields:
        return None
    annotation = model.model_fields[key].annotation
    candidate = next(iter(get_args(annotation)), annotation)
    return candidate if isinstance(candidate, type) and issubclass(candidate, BaseModel) else None


def _reference_faults(configuration: Configuration) -> list[Fault]:
    """Faults between tables: names that are used twice, references to nothing, and TLS."""
    faults: list[Fault] = []
    for kind in ("source", "destination", "engine", "route"):
        names = [entry.name for entry in getattr(configuration, kind)]
        faults += [
            Fault(key=f"{kind}.{i}.name", message=f"the name {name!r} is used twice")
            for i, name in enumerate(names)
            if name in names[:i]
        ]
    engines = [engine.name for engine in configuration.engine]
    destinations = [destination.name for destination in configuration.destination]
    faults += _tls_faults(configuration) or _syslog_faults(configuration)
    for i, route in enumerate(configuration.route):
        references: tuple[tuple[str, Sequence[str], list[str]], ...] = (
            ("engines", route.engines, engines),
            ("destinations", route.destinations, destinations),
        )
        for field, named, valid in references:
            faults += [
                Fault(
                    key=f"route.{i}.{field}",
                    message=f"there is no {field.removesuffix('s')} {name!r}{or_valid_names(name, valid)}",
                )
                for name in named
                if name not in valid
            ]
    return faults


def _ensemble_faults(configuration: Configuration) -> list[Fault]:
    """Ensembles of models that cannot be averaged, as far as the models are in the store already."""
    faults: list[Fault] = []
    for i, engine in enumerate(configuration.engine):
        settings = configuration.engine_settings(engine.name)
        members = settings.options.get("ensemble")
        if not members:
            continue
        # Imported here because it loads NumPy, which only nodes with ensembles need.
        from inference.store import refusal_of_models

        reason = refusal_of_models((settings.model, *members), engine.kind, configuration.models_dir)
        if reason is not None:
            faults.append(Fault(key=f"engine.{i}.ensemble", message=reason))
    return faults


def _tls_faults(configuration: Configuration) -> list[Fault]:
    """What is missing or wrong for TLS."""
    tls = configuration.tls
    secured = [f"destination.{i}.tls" for i, d in enumerate(configuration.destination) if d.tls]
    if tls is None:
        return [Fault(key=key, message="there is no [tls] table with a certificate") for key in secured]
    needed = [f"the peers of {key}" for key in secured]
    if tls.require_client_certificate:
        needed.append("require_client_certificate")
    if needed and tls.ca is None:
        return [Fault(key="tls.ca", message=f"name the CA that certificates have to chain to: {needed[0]}")]
    if tls.port == configuration.node.port:
        return [
            Fault(
                key="tls.port",
                message="choose another port than node.port, or leave tls.port out if node.port is to take only TLS",
            )
        ]
    faults = [
        Fault(key=f"tls.{key}", message=f"there is no file {configuration.folder / name}")
        for key in ("certificate", "key", "ca")
        if (name := getattr(tls, key)) is not None and not (configuration.folder / name).is_file()
    ]
    settings = configuration.tls_settings()
    if not faults and settings is not None:
        try:
            server_context(settings)
        except TlsMisconfigured as error:
            faults.append(Fault(key="tls.certificate", message=str(error)))
    return faults


def _syslog_faults(configuration: Configuration) -> list[Fault]:
    """What is missing or wrong for syslog over TLS."""
    audit = configuration.audit_settings()
    if audit is None or audit.syslog is None:
        return []
    if audit.syslog.tls.ca is None:
        return [Fault(key="audit.ca", message="name the CA that the syslog server's certificate chains to")]
    try:
        client_context(audit.syslog.tls)
    except TlsMisconfigured as error:
        return [Fault(key="audit.ca", message=str(error))]
    return []
