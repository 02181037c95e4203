"""A whole configuration, and the settings that each room gets from it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pydantic import Field

from db.database import DatabaseSettings
from handlers.settings import AuditSettings, Destination, ReceiverSettings, Source, Syslog, Tls
from inference.reading.limits import ReaderLimits
from inference.settings import EngineSettings
from node.configuration.engines import options_of
from node.configuration.tables import (
    INSTANCES_KEYWORD,
    AccessTable,
    AuditTable,
    CompletionTable,
    DatabaseTable,
    DestinationTable,
    EngineTable,
    LogTable,
    NodeTable,
    OverlayTable,
    ReaderTable,
    RetentionTable,
    RouteTable,
    SourceTable,
    SpoolTable,
    Table,
    TlsTable,
    WebTable,
)

DEFAULT_FILE = "config.toml"


class Configuration(Table):
    """A checked configuration. ``file`` is where it came from."""

    node: NodeTable = NodeTable()
    database: DatabaseTable = DatabaseTable()
    web: WebTable = WebTable()
    log: LogTable = LogTable()
    completion: CompletionTable = CompletionTable()
    access: AccessTable = AccessTable()
    tls: TlsTable | None = None
    audit: AuditTable = AuditTable()
    spool: SpoolTable = SpoolTable()
    reader: ReaderTable = ReaderTable()
    retention: RetentionTable = RetentionTable()
    overlay: OverlayTable = OverlayTable()
    source: tuple[SourceTable, ...] = ()
    destination: tuple[DestinationTable, ...] = ()
    engine: tuple[EngineTable, ...] = ()
    route: tuple[RouteTable, ...] = ()
    file: Path = Field(default=Path(DEFAULT_FILE), exclude=True)

    @property
    def folder(self) -> Path:
        """The folder of the configuration file, which relative paths start from."""
        return self.file.resolve().parent

    @property
    def data_dir(self) -> Path:
        """The folder of everything that the node keeps."""
        return self.folder / self.node.data_dir

    @property
    def spool_dir(self) -> Path:
        """The folder of received files."""
        return self.data_dir / "spool"

    @property
    def results_dir(self) -> Path:
        """The folder of result files."""
        return self.data_dir / "results"

    @property
    def models_dir(self) -> Path:
        """The folder of the model store."""
        return self.data_dir / "models"

    @property
    def run_dir(self) -> Path:
        """The folder of the sockets by which processes wake each other, and of the lock."""
        return self.data_dir / "run"

    def engine_named(self, name: str) -> EngineTable:
        """The engine with this name, which must exist."""
        return next(engine for engine in self.engine if engine.name == name)

    def database_settings(self) -> DatabaseSettings:
        """The settings of the database, with an absolute path for SQLite."""
        url = self.database.url
        prefix = "sqlite:///"
        if url.startswith(prefix) and not url.startswith(prefix + "/"):
            url = prefix + str(self.folder / url.removeprefix(prefix))
        return DatabaseSettings(url=url)

    def destinations(self) -> tuple[Destination, ...]:
        """All destinations, those with ``tls`` with our certificates."""
        return tuple(
            Destination(
                name=d.name,
                ae_title=d.ae_title,
                host=d.host,
                port=d.port,
                tls=self.tls_settings() if d.tls else None,
                tls_name=d.tls_name,
                associations=d.associations,
                commit=d.commit,
            )
            for d in self.destination
        )

    def tls_settings(self) -> Tls | None:
        """The files and rules for TLS, None without ``[tls]``."""
        if self.tls is None:
            return None
        return Tls(
            certificate=self.folder / self.tls.certificate,
            key=self.folder / self.tls.key,
            ca=None if self.tls.ca is None else self.folder / self.tls.ca,
            require_client_certificate=self.tls.require_client_certificate,
            port=self.tls.port,
        )

    def audit_settings(self) -> AuditSettings | None:
        """Where the audit trail goes, None if it is switched off."""
        if not self.audit.enabled:
            return None
        return AuditSettings(
            folder=self.data_dir / "audit",
            source=self.node.ae_title,
            patients=self.audit.patients,
            syslog=self._syslog(),
        )

    def _syslog(self) -> Syslog | None:
        if self.audit.syslog is None:
            return None
        host, _, port = self.audit.syslog.rpartition(":")
        tls = self.tls_settings() or Tls()
        if self.audit.ca is not None:
            tls = replace(tls, ca=self.folder / self.audit.ca)
        return Syslog(host=host.strip("[]"), port=int(port), tls=tls)

    def receiver_settings(self, engine_keywords: frozenset[str] = frozenset()) -> ReceiverSettings:
        """The settings of the DICOM acceptor.

        Args:
            engine_keywords: attributes that plug-in engines select by, indexed with those of the routing rules.
        """
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
            attributes=engine_keywords.union(
                keyword for route in self.route for keyword in route.match if keyword != INSTANCES_KEYWORD
            ),
        )

    def reader_limits(self) -> ReaderLimits:
        """What reading one file may cost."""
        return ReaderLimits(memory_bytes=int(self.reader.memory), seconds=self.reader.seconds)

    def engine_settings(self, name: str) -> EngineSettings:
        """How to run an existing engine. A model that is an existing file gets its full path."""
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
            options=options_of(engine),
        )
