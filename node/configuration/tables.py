"""The tables of config.toml: their keys, types, defaults and bounds."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ByteSize, ConfigDict, Field, field_validator
from pydicom._dicom_dict import DicomDictionary
from pydicom.datadict import tag_for_keyword

from node.configuration.suggestions import did_you_mean

INSTANCES_KEYWORD = "instances"
"""The key of a condition on the number of instances in a series; all other keys are DICOM keywords."""


class Table(BaseModel):
    """The base of all tables: strict types, immutable, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def checked_ae_title(value: str) -> str:
    """An AE title without surrounding spaces (value representation AE, PS3.5 table 6.2-1).

    Raises:
        ValueError: it is empty, longer than 16 characters, not ASCII, or has a backslash or control character.
    """
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
    """``[node]``: the node's own AE title, address and folders."""

    ae_title: AETitle = "OVERREAD"
    host: str = "0.0.0.0"  # noqa: S104 - a DICOM node listens to its network by default
    port: Port = 11112
    data_dir: str = "var"
    receivers: Annotated[int, Field(ge=1, le=64)] = 2
    private_sop_classes: tuple[str, ...] = ()

    _check_ae_title = field_validator("ae_title")(checked_ae_title)


class DatabaseTable(Table):
    """``[database]``: which database to use."""

    url: str = "sqlite:///var/overread.db"

    @field_validator("url")
    @classmethod
    def _check_scheme(cls, value: str) -> str:
        if not value.startswith(("sqlite:///", "postgresql+psycopg://")):
            raise ValueError("use sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE")
        return value


class WebTable(Table):
    """``[web]``: the web process."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Port = 8080


class LogTable(Table):
    """``[log]``: the format of the log on standard error."""

    format: Literal["text", "json"] = "text"
    """Each record is a line of key=value pairs, or a line with one JSON object."""


class CompletionTable(Table):
    """``[completion]``: when a study counts as complete."""

    quiet_seconds: Annotated[float, Field(gt=0, le=86400)] = 5.0
    """After this time without a new instance, if nothing showed it earlier."""


class AccessTable(Table):
    """``[access]``: who may connect."""

    allow_unknown: bool = True
    """Accept peers that are no ``[[source]]``."""


class TlsTable(Table):
    """``[tls]``: files in PEM form, relative to the configuration's folder."""

    certificate: str
    key: str
    ca: str | None = None
    require_client_certificate: bool = True
    port: Port | None = None
    """A port for TLS beside ``node.port``, which then stays in clear. Without it ``node.port`` takes only TLS."""


class AuditTable(Table):
    """``[audit]``: the audit trail."""

    enabled: bool = True
    patients: bool = False
    """Record Patient IDs and the values of queries too."""
    syslog: str | None = None
    """``host:port`` of a syslog server that also gets the messages, over TLS."""
    ca: str | None = None
    """The CA file for the syslog server's certificate; without it, that of ``[tls]``."""

    @field_validator("syslog")
    @classmethod
    def _check_syslog(cls, value: str | None) -> str | None:
        if value is not None:
            host, _, port = value.rpartition(":")
            if not host or not port.isdecimal() or not 0 < int(port) < 65536:
                raise ValueError("write host:port, for example syslog.example:6514")
        return value


class SpoolTable(Table):
    """``[spool]``: where received files are written."""

    reserve: ByteSize = ByteSize(1_000_000_000)
    """Bytes that stay free on the disk. Below that, instances are refused."""


class ReaderTable(Table):
    """``[reader]``: what reading one received file may cost."""

    memory: ByteSize = ByteSize(4_000_000_000)
    """The address space of a reader process in bytes. Its libraries need about half a gigabyte of it."""
    seconds: Annotated[float, Field(gt=0)] = 60.0
    """The time for one file, or for each frame of a multi-frame file."""

    @field_validator("memory")
    @classmethod
    def _check_minimum(cls, value: ByteSize) -> ByteSize:
        if value < 1_000_000_000:
            raise ValueError("a reader needs at least 1GB")
        return value


Days = Annotated[float, Field(gt=0)]


class RetentionTable(Table):
    """``[retention]``: how many days things are kept. Without a value they are kept for ever."""

    received: Days | None = None
    """Instances of studies whose jobs have all ended, counted from the last instance."""
    results: Days | None = None
    """Result files that every destination has, counted from when they were made."""


class OverlayTable(Table):
    """``[overlay]``: how overlays are written."""

    compression: Literal["none", "jpeg"] = "none"
    """Uncompressed RGB, or JPEG Baseline, which every destination then has to take."""


class SourceTable(Table):
    """``[[source]]``: a peer that may connect."""

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
    """``[[destination]]``: a peer that gets results."""

    name: str
    ae_title: AETitle
    host: str
    port: Port
    tls: bool = False
    tls_name: str | None = None
    """The name in the peer's certificate, if it is not ``host``."""
    associations: Annotated[int, Field(ge=1, le=16)] = 2
    """Most associations at any one time that take results to it."""
    commit: bool = False
    """Ask for storage commitment. Results then count as delivered once the peer commits to them."""

    _check_ae_title = field_validator("ae_title")(checked_ae_title)


class EngineTable(Table):
    """``[[engine]]``: a model and how to run it. Further keys belong to the engine kind; ``engines.py`` checks them."""

    model_config = ConfigDict(extra="allow")

    name: str
    kind: str
    model: str
    device: str = "auto"
    backend: Literal["auto", "torch", "openvino"] = "auto"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    deadline_seconds: Annotated[float, Field(gt=0)] = 1800.0
    """The time that a stage may take for one batch or input. After that its process counts as hanging and is ended."""
    max_batch: Annotated[int, Field(ge=1, le=256)] | None = None
    """Most images or volumes in one batch of the device. Without it, the engine kind's own number."""
    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 20.0
    """How long a batch waits for inputs that are being prepared already."""
    options: dict[str, Any] = {}
    """``[engine.options]``: options of the engine kind. They may also stand in the table itself."""

    @field_validator("device")
    @classmethod
    def _check_device(cls, value: str) -> str:
        if re.fullmatch(r"auto|cpu|cuda(:[0-9]+)?", value) is None:
            raise ValueError("use auto, cpu, cuda or, for the second GPU, cuda:1")
        return value

    @property
    def own_keys(self) -> dict[str, Any]:
        """The engine kind's options that stand in the table itself."""
        return dict(self.model_extra or {})


class RangeCondition(Table):
    """``{min=, max=}``: the value is a number within these bounds, inclusive."""

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
    """``[[route]]``: which series go to which engines, and their results to which destinations."""

    name: str
    match: dict[str, Condition] = {}
    engines: tuple[str, ...]
    destinations: tuple[str, ...]
    priority: int = 0
    weight: Annotated[float, Field(ge=0.01, le=100)] = 1.0
    """The share of its jobs where jobs of other rules and sources have the same priority and wait too."""

    @field_validator("match")
    @classmethod
    def _check_match(cls, value: dict[str, Condition]) -> dict[str, Condition]:
        for keyword, condition in value.items():
            if keyword != INSTANCES_KEYWORD and tag_for_keyword(keyword) is None:
                keywords = [entry[4] for entry in DicomDictionary.values()] + [INSTANCES_KEYWORD]
                raise ValueError(f"{keyword!r} is no DICOM keyword{did_you_mean(keyword, keywords)}")
            if isinstance(condition, str):
                try:
                    re.compile(condition)
                except re.error as error:
                    raise ValueError(f"{keyword}: not a regular expression ({error})") from None
        return value
