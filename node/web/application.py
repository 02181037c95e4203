"""The web process: health, readiness and metrics."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from db.database import Database
from db.errors import DatabaseError
from handlers.spool.disk import free_bytes
from node.configuration.configuration import Configuration
from node.views.metrics import DatabaseCollector

CONNECT_SECONDS = 1.0
"""How long ``/readyz`` waits for the DICOM port."""


def create_app(configuration: Configuration, database: Database) -> FastAPI:
    """The web application. It keeps no state: each request reads the database."""
    app = FastAPI(title="overread", docs_url=None, redoc_url=None, openapi_url=None)
    registry = CollectorRegistry()
    registry.register(DatabaseCollector(configuration, database))

    @app.get("/healthz")
    def healthz() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/readyz")
    def readyz(response: Response) -> dict[str, str]:
        checks = {
            "database": _database_state(database),
            "dicom": _dicom_state(configuration),
            "disk": _disk_state(configuration),
        }
        if any(state != "ok" for state in checks.values()):
            response.status_code = 503
        return checks

    @app.get("/metrics")
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return app


def _database_state(database: Database) -> str:
    try:
        status = database.schema_status()
    except DatabaseError as error:
        return str(error)
    return "ok" if status == "current" else f"the schema is {status}"


def _dicom_state(configuration: Configuration) -> str:
    host = configuration.node.host
    address = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound
    try:
        socket.create_connection((address, configuration.node.port), CONNECT_SECONDS).close()
    except OSError as error:
        return f"port {configuration.node.port} does not answer: {error.strerror or error}"
    return "ok"


def _disk_state(configuration: Configuration) -> str:
    try:
        free = free_bytes(configuration.spool_dir)
    except OSError as error:
        return f"the spool's disk does not answer: {error.strerror}"
    reserve = configuration.spool.reserve
    return "ok" if free >= reserve else f"{free} bytes are free, less than spool.reserve: images are refused"


def serve_web(configuration: Configuration, database: Database) -> None:
    """Serve until SIGTERM, which uvicorn handles."""
    uvicorn.run(
        create_app(configuration, database),
        host=configuration.web.host,
        port=configuration.web.port,
        log_config=None,
        log_level="warning",
        access_log=False,
    )
