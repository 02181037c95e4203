"""The services that a receiver offers besides storage and verification: query, retrieve, storage commitment."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from db.database import Database
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ, N_ACTION_RQ, N_EVENT_REPORT_RQ
from handlers.services.commitment import CommitmentReports, CommitmentRequests
from handlers.services.query import Query
from handlers.services.retrieval import Get, Move
from handlers.settings import ReceiverSettings
from handlers.upper_layer.association import Service


def services(
    database: Database,
    settings: ReceiverSettings,
    root: Path,
    run_directory: Path,
    audit: AuditTrail | None = None,
) -> Mapping[int, Service]:
    """Services by the command that asks for them; results lie below ``root``."""
    trail = audit or AuditTrail(None)
    return {
        C_FIND_RQ: Query(database, settings.ae_title, trail),
        C_MOVE_RQ: Move(database, settings, root, trail),
        C_GET_RQ: Get(database, settings, root, trail),
        N_ACTION_RQ: CommitmentRequests(database, settings, run_directory),
        N_EVENT_REPORT_RQ: CommitmentReports(database, settings),
    }
