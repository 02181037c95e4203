"""The services that a receiver offers besides storage and verification: query and retrieve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from db.database import Database
from handlers.association import Service
from handlers.audit import AuditTrail
from handlers.dimse import C_FIND_RQ, C_GET_RQ, C_MOVE_RQ
from handlers.query import Query
from handlers.retrieval import Get, Move
from handlers.settings import ReceiverSettings


def services(
    database: Database, settings: ReceiverSettings, root: Path, audit: AuditTrail | None = None
) -> Mapping[int, Service]:
    """Services by the command that asks for them; results lie below ``root``."""
    trail = audit or AuditTrail(None)
    return {
        C_FIND_RQ: Query(database, settings.ae_title, trail),
        C_MOVE_RQ: Move(database, settings, root, trail),
        C_GET_RQ: Get(database, settings, root, trail),
    }
