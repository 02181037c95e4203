"""``overread serve``: runs the node, or one of its roles."""

from __future__ import annotations

import logging
import os
from typing import Annotated

import typer

from db.database import Database
from handlers.audit.trail import AuditTrail
from handlers.spool.files import reconcile
from handlers.spool.stored_files import StoredFiles
from node.commands.common import ConfigOption, load_configuration
from node.configuration.configuration import Configuration
from node.errors import CommandError
from node.log import configure_log
from node.processes.engine_keywords import engine_keywords
from node.processes.libraries import Role
from node.processes.process import (
    hold_data_folder,
    keep_caches_in_data_folder,
    make_folders,
    reload_event_on_signal,
    stop_event_on_signals,
)
from node.processes.serving import serve_role
from node.processes.supervisor import SUPERVISOR, Supervisor

log = logging.getLogger("overread.serve")

UMASK = 0o027
"""The umask: files hold patient data, so only the owner and its group may read them."""


def serve(
    config: ConfigOption = None,
    role: Annotated[
        Role | None, typer.Option(help="Run one role alone; all but receivers also beside a node.")
    ] = None,
) -> None:
    """Run the node until SIGTERM, then drain and exit 0; SIGHUP reads the configuration again."""
    configuration = load_configuration(config)
    configure_log(role or SUPERVISOR, configuration.log.format)
    keep_caches_in_data_folder(configuration)
    os.umask(UMASK)
    lock = hold_data_folder(configuration, whole=role is None) if role in (None, Role.RECEIVER) else None
    prepare(configuration, with_spool=role is None)
    audit = AuditTrail(configuration.audit_settings())
    audit.started()
    try:
        if role is None:
            stop = stop_event_on_signals()
            assert lock is not None
            Supervisor(configuration, lock).serve(stop, reload_event_on_signal())
        else:
            kinds = [engine.kind for engine in configuration.engine] if role is Role.RECEIVER else []
            serve_role(configuration, role, engine_keywords=engine_keywords(kinds))
    finally:
        audit.stopped()
        audit.close()


def prepare(configuration: Configuration, *, with_spool: bool) -> None:
    """Create the folders and upgrade the database.

    Args:
        configuration: the node's.
        with_spool: also clear up what interrupted receivers and workers left. No other node may use the folder.

    Raises:
        CommandError: the database was written by a newer version.
    """
    make_folders(configuration)
    database = Database.open(configuration.database_settings())
    try:
        if database.schema_status() == "newer":
            raise CommandError(
                "The database was written by a newer overread: update overread or use another database."
            )
        database.upgrade()
        if with_spool:
            reconcile(configuration.spool_dir, database)
            StoredFiles(configuration.data_dir).clear_up("results")
    finally:
        database.close()
