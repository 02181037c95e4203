"""Serves one role of a node in this process. Each role imports only what it needs."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from db.database import Database
from node.configuration.configuration import Configuration
from node.processes.libraries import Role
from node.processes.process import map_large_buffers, process_name, stop_event_on_signals

log = logging.getLogger("overread.serving")

DRAIN_SECONDS = 20.0
"""The time that open associations have to finish when a receiver stops."""
FIRST_GPU = "cuda:0"
FIRST_GPU_DEVICE = Path("/dev/nvidia0")


def worker_groups(configuration: Configuration) -> list[tuple[str, ...]]:
    """The names of engines that share a device: each group gets one worker process."""
    groups: dict[str, list[str]] = {}
    for engine in configuration.engine:
        groups.setdefault(_likely_device(engine.device), []).append(engine.name)
    return [tuple(names) for names in groups.values()]


def _likely_device(device: str) -> str:
    """The device that a configured one most likely means. A guess without torch; engines find out themselves."""
    if device == "auto":
        return FIRST_GPU if FIRST_GPU_DEVICE.exists() else "cpu"
    return FIRST_GPU if device == "cuda" else device


def serve_role(
    configuration: Configuration,
    role: Role,
    number: int | None = None,
    ready: int | None = None,
    engine_keywords: frozenset[str] = frozenset(),
) -> None:
    """Run one role in this process until SIGTERM.

    Args:
        configuration: the node's.
        role: what to run.
        number: which process of its role it is; None for a role that runs alone.
        ready: a pipe to which a receiver writes once it listens.
        engine_keywords: attributes that a receiver indexes for plug-in engines.
    """
    database = Database.open(configuration.database_settings())
    try:
        if role is Role.RECEIVER:
            _serve_receiver(configuration, database, ready, engine_keywords)
        elif role is Role.WORKER:
            _serve_worker(configuration, database, number)
        elif role is Role.COURIER:
            from node.roles.courier import Courier

            name = process_name(configuration, role, number)
            Courier(configuration, database, name).serve(stop_event_on_signals())
        elif role is Role.TICKER:
            from node.roles.ticker import Ticker

            Ticker(configuration, database).serve(stop_event_on_signals())
        else:
            from node.web.application import serve_web

            serve_web(configuration, database)
    finally:
        database.close()


def _serve_receiver(
    configuration: Configuration, database: Database, ready: int | None, engine_keywords: frozenset[str]
) -> None:
    from handlers.acceptor.server import Server
    from handlers.audit.trail import AuditTrail

    map_large_buffers()
    settings = configuration.receiver_settings(engine_keywords)
    audit = AuditTrail(configuration.audit_settings())
    server = Server(
        settings,
        database,
        data_folder=configuration.data_dir,
        run_directory=configuration.run_dir,
        audit=audit,
    )
    stop_event_on_signals(also=lambda: server.stop(DRAIN_SECONDS))
    log.info("receiver_started port=%d", configuration.node.port)
    if ready is not None:
        os.write(ready, b"!")
        os.close(ready)
    server.serve_forever()
    audit.close()
    log.info("receiver_stopped")


def _serve_worker(configuration: Configuration, database: Database, number: int | None) -> None:
    from node.roles.worker import Worker

    name = process_name(configuration, Role.WORKER, number)
    if number is None:
        engines = tuple(engine.name for engine in configuration.engine)
    else:
        engines = worker_groups(configuration)[number]
    Worker(configuration, database, name, engines).serve(stop_event_on_signals())
