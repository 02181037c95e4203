"""The tables of config.toml: their keys, types, defaults and bounds."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

INSTANCES_KEYWORD = "instances"
"""Condition on the number of instances in the series; every other condition is a DICOM keyword."""


def nearest(name: str, valid: Sequence[str]) -> str:
    matches = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {matches[0]!r}?" if matches else ""


def known(name: str, valid: Sequence[str]) -> str:
    """The nearest valid name as a hint, or all of them where none is near."""
    return (
        nearest(name, valid) or f"; there {'is' if len(valid) == 1 else 'are'} {', '.join(valid) or 'none'}"
    )


class Table(BaseModel):
    """Base of all tables: strict, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def checked_ae_title(value: str) -> str:
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


class NodeTable(Table):
    """``[node]``"""

    ae_title: AETitle = "OVERREAD"
    host: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens to its network by default
    port: Port = 11112
    data_dir: str = "var"
    receivers: Annotated[int, Field(ge=1, le=64)] = 2
    private_sop_classes: tuple[str, ...] = ()

    _check_ae_title = field_validator("ae_title")(checked_ae_title)


class DatabaseTable(Table):
    """``[database]``"""

    url: str = "sqlite:///var/overread.db"

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("use sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE")
        return value


class WebTable(Table):
    """``[web]``"""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080


class LogTable(Table):
    """``[log]``: what is written to standard error."""

    format: Literal["text", "json"] = "text"
    """A line of key=value pairs for each record, or of one JSON object."""


class CompletionTable(Table):
    """``[completion]``"""

    quiet_seconds: Annotated[float, Field(gt=0, le=86400)] = 5.0


class AccessTable(Table):
    """``[access]``"""

    allow_unknown: bool = True


class TlsTable(Table):
    """``[tls]``: files in PEM form, relative to the configuration's folder."""

    certificate: str
    key: str
    ca: str | None = None
    require_client_certificate: bool = True
    port: Port | None = None
    """Where the receivers speak TLS, beside ``node.port`` in clear; none: ``node.port`` speaks TLS alone."""


class AuditTable(Table):
    """``[audit]``"""

    enabled: bool = True
    patients: bool = False
    """Patient IDs and the values of queries too."""
    syslog: str | None = None
    """``host:port`` of a syslog server that is sent the messages too, over TLS."""
    ca: str | None = None
    """What its certificate has to chain to; none: that of ``[tls]``."""

    @field_validator("syslog")
    @classmethod
    def _check_syslog(cls, value: str | None) -> str | None:
        if value is not None:
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError("write host:port, for example syslog.example:6514")
        return value


class SpoolTable(Table):
    """``[spool]``"""

    reserve: ByteSize = ByteSize(1_000_000_000)
    """Room that is kept free on the disk: below it instances are refused until there is room again."""


class ReaderTable(Table):
    """``[reader]``: what reading one received file may cost."""

    memory: ByteSize = ByteSize(4_000_000_000)
    """Address space of a reader process; its libraries need about half a gigabyte of that."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """For one file, or one frame of a file with several."""

    @field_validator("memory")
    @classmethod
    def _enough(cls, value: ByteSize) -> ByteSize:
        if value < 1_000_000_000:
            raise ValueError("a reader needs at least 1GB")
        return value


Days = Annotated[float, Field(gt=0)]


class RetentionTable(Table):
    """``[retention]``: how many days things are kept; none: for ever."""

    received: Days | None = None
    """Instances of studies that have ended, counted from their last instance."""
    results: Days | None = None
    """Result files that every destination has, counted from when they were made."""


class SourceTable(Table):
    """``[[source]]``"""

    name: str
    ae_title: AETitle
    hosts: tuple[str, ...] = ()
    maximum_associations: Annotated[int, Field(ge=1)] | None = None

    _check_ae_title = field_validator("ae_title")(checked_ae_title)

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


class DestinationTable(Table):
    """``[[destination]]``"""

    name: str
    ae_title: AETitle
    host: str
    port: Port
    tls: bool = False
    tls_name: str | None = None
    """The name that the peer's certificate carries, where it is not ``host``."""
    commit: bool = False
    """Ask for storage commitment: results then count as delivered when the peer commits."""

    _check_ae_title = field_validator("ae_title")(checked_ae_title)


class EngineTable(Table):
    """``[[engine]]``; the keys that are not here are the engine kind's, which ``engines.py`` checks."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: str
    model: str
    device: str = "auto"
    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deadline_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """How long one batch may take before its worker is ended as hanging."""
    options: dict[str, Any] = {}
    """``[engine.options]``: what the engine kind has of its own, some of which may stand in the table itself."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value) is None:
            raise ValueError("use auto, cpu, cuda or, for the second GPU, cuda:1")
        return value

    @property
    def own_keys(self) -> dict[str, Any]:
        """What the table itself has of the engine kind's."""
        return dict(self.model_extra or {})


class RangeCondition(Table):
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


class AbsentCondition(Table):
    """``{absent=true}``: the attribute is missing or empty."""

    absent: Literal[True]


Condition = str | tuple[str, ...] | RangeCondition | AbsentCondition


class RouteTable(Table):
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
                raise ValueError(f"{keyword!r} is no DICOM keyword{nearest(keyword, known)}")
            if isinstance(condition, str):
                try:
                    re.compile(condition)
                except re.error as error:
                    raise ValueError(f"{keyword}: not a regular expression ({error})") from None
        return value
