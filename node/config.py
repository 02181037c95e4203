"""Configuration: config.toml and the environment, checked as a whole, into the settings of every room."""

from __future__ import annotations

import difflib
import ipaddress
import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, ValidationError, field_validator
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from db.database import DatabaseSettings
from handlers.settings import Destination, ReceiverSettings, Source, Tls
from inference.engines import engine_kinds
from inference.settings import EngineSettings
from node.errors import ConfigurationError, Fault

ENVIRONMENT_PREFIX = "OVERREAD_"
DEFAULT_FILE = "config.toml"
INSTANCES_KEYWORD = "instances"
"""Condition on the number of instances in the series; every other condition is a DICOM keyword."""


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _ae_title(value: str) -> str:
    """PS3.5 table 6.2-1: at most 16 characters of the default repertoire, no backslash, not only spaces."""
    if (
        not value.strip()
        or len(value) > 16
        or not value.isascii()
        or not value.isprintable()
        or "\\" in value
    ):
        raise ValueError("an AE title has 1 to 16 printable ASCII characters and no backslash")
    return value.strip()


AETitle = Annotated[str, Field(min_length=1)]
Port = Annotated[int, Field(ge=1, le=65535)]


class NodeTable(_Table):
    """``[node]``"""

    ae_title: AETitle = "OVERREAD"
    host: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens to its network by default
    port: Port = 11112
    data_dir: str = "var"
    receivers: Annotated[int, Field(ge=1, le=64)] = 2
    private_sop_classes: tuple[str, ...] = ()

    _check_ae_title = field_validator("ae_title")(_ae_title)


class DatabaseTable(_Table):
    """``[database]``"""

    url: str = "sqlite:///var/overread.db"

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("use sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE")
        return value


class WebTable(_Table):
    """``[web]``"""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080


class CompletionTable(_Table):
    """``[completion]``"""

    quiet_seconds: Annotated[float, Field(gt=0, le=86400)] = 5.0


class AccessTable(_Table):
    """``[access]``"""

    allow_unknown: bool = True


class TlsTable(_Table):
    """``[tls]``: files in PEM form, relative to the configuration's folder."""

    certificate: str
    key: str
    ca: str | None = None
    require_client_certificate: bool = True


class AuditTable(_Table):
    """``[audit]``"""

    enabled: bool = True


class SpoolTable(_Table):
    """``[spool]``"""

    reserve: ByteSize = ByteSize(1_000_000_000)
    """Room that is kept free on the disk: below it instances are refused until there is room again."""


Days = Annotated[float, Field(gt=0)]


class RetentionTable(_Table):
    """``[retention]``: how many days things are kept; none: for ever."""

    received: Days | None = None
    """Instances of studies that have ended, counted from their last instance."""
    results: Days | None = None
    """Result files that every destination has, counted from when they were made."""


class SourceTable(_Table):
    """``[[source]]``"""

    name: str
    ae_title: AETitle
    hosts: tuple[str, ...] = ()
    maximum_associations: Annotated[int, Field(ge=1)] | None = None

    _check_ae_title = field_validator("ae_title")(_ae_title)

    @field_validator("hosts")
    @classmethod
    def _check_hosts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for host in value:
            try:
                ipaddress.ip_network(host, strict=False)
            except ValueError:
                raise ValueError(
                    f"{host!r} is neither an address nor a network such as 10.1.0.0/16"
                ) from None
        return value


class DestinationTable(_Table):
    """``[[destination]]``"""

    name: str
    ae_title: AETitle
    host: str
    port: Port
    tls: bool = False

    _check_ae_title = field_validator("ae_title")(_ae_title)


class ThresholdTable(_Table):
    """``{low=, high=, critical=}``: thresholds on a label's calibrated probability."""

    low: float = Field(ge=0, le=1)
    high: float = Field(ge=0, le=1)
    critical: float = Field(ge=0, le=1)


class EngineTable(_Table):
    """``[[engine]]``"""

    name: str
    kind: str
    model: str
    device: Annotated[str, Field(pattern=r"^(auto|cpu|cuda(:\d+)?)$")] = "auto"
    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    ensemble: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Further models whose predictions are averaged with the first one's."""
    weights: Annotated[tuple[float, ...], Field(strict=False)] = ()
    scales: Annotated[tuple[int, ...], Field(strict=False)] = ()
    tta: bool = False
    explanation: Literal["Grad-CAM", "Grad-CAM++", "Saliency", "Attention rollout", "SHAP"] | None = None
    thresholds: dict[str, ThresholdTable] = {}
    deadline_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """How long one batch may take before its worker is ended as hanging."""
    options: dict[str, Any] = {}
    """``[engine.options]``: what the engine kind has of its own; the engine checks it."""

    def engine_options(self) -> dict[str, Any]:
        """What is set of the keys that not every engine kind has."""
        given = {
            "ensemble": list(self.ensemble),
            "weights": list(self.weights),
            "scales": list(self.scales),
            "tta": self.tta,
            "explanation": self.explanation,
            "thresholds": {name: limits.model_dump() for name, limits in self.thresholds.items()},
        }
        return {**{key: value for key, value in given.items() if value}, **self.options}


class RangeCondition(_Table):
    """``{min=, max=}``: the value is a number within the inclusive bounds."""

    min: float | None = None
    max: float | None = None

    @field_validator("max")
    @classmethod
    def _check_order(cls, value: float | None, info: Any) -> float | None:
        low = info.data.get("min")
        if value is not None and low is not None and value < low:
            raise ValueError("max is below min")
        return value


class AbsentCondition(_Table):
    """``{absent=true}``: the attribute is missing or empty."""

    absent: Literal[True]


Condition = str | tuple[str, ...] | RangeCondition | AbsentCondition


class RouteTable(_Table):
    """``[[route]]``"""

    name: str
    match: dict[str, Condition] = {}
    engines: tuple[str, ...]
    destinations: tuple[str, ...]
    priority: int = 0

    @field_validator("match")
    @classmethod
    def _check_match(cls, value: dict[str, Condition]) -> dict[str, Condition]:
        for keyword, condition in value.items():
            if keyword != INSTANCES_KEYWORD and tag_for_keyword(keyword) is None:
                known = [entry[4] for entry in DicomDictionary.values()] + [INSTANCES_KEYWORD]
                raise ValueError(f"{keyword!r} is no DICOM keyword{_nearest(keyword, known)}")
            if isinstance(condition, str):
                try:
                    re.compile(condition)
                except re.error as error:
                    raise ValueError(f"{keyword}: not a regular expression ({error})") from None
        return value


class Configuration(_Table):
    """A whole configuration that has been checked; ``file`` is where it came from."""

    node: NodeTable = NodeTable()
    database: DatabaseTable = DatabaseTable()
    web: WebTable = WebTable()
    completion: CompletionTable = CompletionTable()
    access: AccessTable = AccessTable()
    tls: TlsTable | None = None
    audit: AuditTable = AuditTable()
    spool: SpoolTable = SpoolTable()
    retention: RetentionTable = RetentionTable()
    source: tuple[SourceTable, ...] = ()
    destination: tuple[DestinationTable, ...] = ()
    engine: tuple[EngineTable, ...] = ()
    route: tuple[RouteTable, ...] = ()
    file: Path = Field(default=Path(DEFAULT_FILE), exclude=True)

    @property
    def folder(self) -> Path:
        """The folder that relative paths start from: the configuration file's."""
        return self.file.resolve().parent

    @property
    def data_dir(self) -> Path:
        return self.folder / self.node.data_dir

    @property
    def spool_dir(self) -> Path:
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        return self.data_dir / "results"

    @property
    def models_dir(self) -> Path:
        return self.data_dir / "models"

    @property
    def run_dir(self) -> Path:
        """Where processes put the sockets by which they wake each other."""
        return self.data_dir / "run"

    def engine_named(self, name: str) -> EngineTable:
        return next(engine for engine in self.engine if engine.name == name)

    def database_settings(self) -> DatabaseSettings:
        """Settings of the database room, with a relative SQLite file made absolute."""
        url = self.database.url
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.startswith(prefix + "/"):
            url = prefix + str(self.folder / url.removeprefix(prefix))
        return DatabaseSettings(url=url)

    def destinations(self) -> tuple[Destination, ...]:
        return tuple(
            Destination(
                name=d.name,
                ae_title=d.ae_title,
                host=d.host,
                port=d.port,
                tls=self.tls_settings() if d.tls else None,
            )
            for d in self.destination
        )

    def tls_settings(self) -> Tls | None:
        """The files for TLS, None where the port is in clear."""
        if self.tls is None:
            return None
        return Tls(
            certificate=self.folder / self.tls.certificate,
            key=self.folder / self.tls.key,
            ca=None if self.tls.ca is None else self.folder / self.tls.ca,
            require_client_certificate=self.tls.require_client_certificate,
        )

    @property
    def audit_dir(self) -> Path:
        return self.data_dir / "audit"

    def receiver_settings(self) -> ReceiverSettings:
        """Settings of the DICOM acceptor, with the keywords that routing rules ask for."""
        return ReceiverSettings(
            ae_title=self.node.ae_title,
            host=self.node.host,
            port=self.node.port,
            spool=self.spool_dir,
            allow_unknown=self.access.allow_unknown,
            sources=tuple(
                Source(
                    name=s.name,
                    ae_title=s.ae_title,
                    hosts=s.hosts,
                    maximum_associations=s.maximum_associations,
                )
                for s in self.source
            ),
            destinations=self.destinations(),
            private_sop_classes=self.node.private_sop_classes,
            reserve_bytes=int(self.spool.reserve),
            tls=self.tls_settings(),
            audit=self.audit_dir if self.audit.enabled else None,
            attributes=frozenset(
                keyword for route in self.route for keyword in route.match if keyword != INSTANCES_KEYWORD
            ),
        )

    def engine_settings(self, name: str) -> EngineSettings:
        engine = self.engine_named(name)
        model = engine.model
        local = self.folder / model
        if ("/" in model or "\\" in model) and local.exists():
            model = str(local)
        return EngineSettings(
            name=engine.name,
            kind=engine.kind,
            model=model,
            device=engine.device,
            backend=engine.backend,
            precision=engine.precision,
            options=engine.engine_options(),
        )


def find_file(file: Path | None) -> Path:
    """The configuration file: the given one, ``OVERREAD_CONFIG``, or config.toml in the working folder."""
    chosen = file or Path(os.environ.get(ENVIRONMENT_PREFIX + "CONFIG") or DEFAULT_FILE)
    if not chosen.is_file():
        raise ConfigurationError(
            chosen, [Fault(key="", message="no such file: name one with -c FILE or OVERREAD_CONFIG")]
        )
    return chosen


def load(file: Path | None = None, environment: Mapping[str, str] | None = None) -> Configuration:
    """Read and check a configuration.

    Raises:
        ConfigurationError: with every fault, each by its dotted key and with the nearest valid name.
    """
    path = find_file(file)
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(path, [Fault(key="", message=f"not valid TOML: {error}")]) from None
    _apply_environment(raw, os.environ if environment is None else environment)
    try:
        configuration = Configuration.model_validate_json(json.dumps(raw, default=str), strict=True)
    except ValidationError as error:
        raise ConfigurationError(path, _faults(error)) from None
    configuration = configuration.model_copy(update={"file": path})
    faults = _cross_faults(configuration)
    if faults:
        raise ConfigurationError(path, faults)
    return configuration


def _apply_environment(raw: dict[str, Any], environment: Mapping[str, str]) -> None:
    """Put ``OVERREAD_<SECTION>__<KEY>`` over the file's values; values are TOML, or else plain text."""
    for name, text in environment.items():
        if not name.startswith(ENVIRONMENT_PREFIX) or "__" not in name:
            continue
        section, _, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        table = raw.setdefault(section, {})
        if isinstance(table, dict):
            table[key] = value


def _nearest(name: str, valid: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def _faults(error: ValidationError) -> list[Fault]:
    faults: dict[str, Fault] = {}
    for item in error.errors(include_url=False):
        location = item["loc"]
        parts = [str(p) for p in location if not (isinstance(p, str) and p.endswith("Condition"))]
        if "match" in parts:
            parts = parts[: parts.index("match") + 2]
        key = ".".join(parts)
        if item["type"] == "extra_forbidden" and "match" not in parts:
            name = str(location[-1])
            faults[key] = Fault(key=key, message=f"unknown key{_nearest(name, _keys_at(location[:-1]))}")
        elif "match" in parts and item["type"] != "value_error":
            message = "use a list, a regular expression, {min=, max=} or {absent=true}"
            faults.setdefault(key, Fault(key=key, message=message))
        else:
            message = item["msg"].removeprefix("Value error, ")
            faults.setdefault(key, Fault(key=key, message=message[:1].lower() + message[1:]))
    return list(faults.values())


def _keys_at(location: Sequence[str | int]) -> list[str]:
    model: type[BaseModel] = Configuration
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        arguments = getattr(annotation, "__args__", ())
        candidate = arguments[0] if arguments else annotation
        if not (isinstance(candidate, type) and issubclass(candidate, BaseModel)):
            return []
        model = candidate
    return [name for name in model.model_fields if name != "file"]


def _cross_faults(configuration: Configuration) -> list[Fault]:
    """Faults that one table alone does not show: doubled names and references to nothing."""
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
    faults += _tls_faults(configuration)
    kinds = list(engine_kinds())
    faults += [
        Fault(key=f"engine.{i}.kind", message=f"there is no engine kind {e.kind!r}{_nearest(e.kind, kinds)}")
        for i, e in enumerate(configuration.engine)
        if e.kind not in kinds
    ]
    for i, route in enumerate(configuration.route):
        references: tuple[tuple[str, Sequence[str], list[str]], ...] = (
            ("engines", route.engines, engines),
            ("destinations", route.destinations, destinations),
        )
        for field, named, valid in references:
            faults += [
                Fault(
                    key=f"route.{i}.{field}",
                    message=f"there is no {field.removesuffix('s')} {name!r}{_nearest(name, valid)}",
                )
                for name in named
                if name not in valid
            ]
    return faults


def _tls_faults(configuration: Configuration) -> list[Fault]:
    """What is missing for TLS."""
    tls = configuration.tls
    secured = [f"destination.{i}.tls" for i, d in enumerate(configuration.destination) if d.tls]
    if tls is None:
        return [Fault(key=key, message="there is no [tls] table with a certificate") for key in secured]
    needed = [f"the peers of {key}" for key in secured]
    if tls.require_client_certificate:
        needed.append("require_client_certificate")
    if needed and tls.ca is None:
        return [Fault(key="tls.ca", message=f"name the CA that certificates have to chain to: {needed[0]}")]
    return [
        Fault(key=f"tls.{key}", message=f"there is no file {configuration.folder / name}")
        for key in ("certificate", "key", "ca")
        if (name := getattr(tls, key)) is not None and not (configuration.folder / name).is_file()
    ]
