"""Serving one role of a node in this process. Each role loads what it needs alone."""

from __future__ import annotations

import logging

from db.database import Database
from node.config import Configuration
from node.processes import give_memory_back, process_name, stop_event_on_signals
from node.roles import Role

log = logging.getLogger("overread.serving")

DRAIN_SECONDS = 20.0


def worker_groups(configuration: Configuration) -> list[tuple[str, ...]]:
    """Engine names by configured device: one worker process for each device."""
    devices = dict.fromkeys(engine.device for engine in configuration.engine)
    return [tuple(e.name for e in configuration.engine if e.device == device) for device in devices]


def serve_role(configuration: Configuration, role: Role, number: int = 0) -> None:
    """Run one role in this process until SIGTERM."""
    database = Database.open(configuration.database_settings())
    try:
        if role is Role.RECEIVER:
            _serve_receiver(configuration, database)
        elif role is Role.WORKER:
            _serve_worker(configuration, database, number)
        elif role is Role.COURIER:
            from node.courier import Courier

            name = process_name(configuration, role, number)
            Courier(configuration, database, name).serve(stop_event_on_signals())
        elif role is Role.TICKER:
            from node.ticker import Ticker

            Ticker(configuration, database).serve(stop_event_on_signals())
        else:
            from node.web import serve_web

            serve_web(configuration, database)
    finally:
        database.close()


def _serve_receiver(configuration: Configuration, database: Database) -> None:
    from handlers.audit import AuditTrail
    from handlers.server import Server
    from handlers.services import services

    give_memory_back()
    settings = configuration.receiver_settings()
    audit = AuditTrail(configuration.audit_settings())
    server = Server(
        settings,
        database,
        configuration.run_dir,
        services=services(database, settings, configuration.data_dir, configuration.run_dir, audit),
        audit=audit,
    )
    stop_event_on_signals(also=lambda: server.stop(DRAIN_SECONDS))
    log.info("receiver_started port=%d", configuration.node.port)
    server.serve_forever()
    audit.close()
    log.info("receiver_stopped")


def _serve_worker(configuration: Configuration, database: Database, number: int) -> None:
    from node.worker import Worker

    groups = worker_groups(configuration)
    name = process_name(configuration, Role.WORKER, number)
    engines = groups[number] if number < len(groups) else ()
    Worker(configuration, database, name, engines).serve(stop_event_on_signals())
