"""The services that a receiver offers besides storage and verification."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from db.database import Database
from handlers.association import Service
from handlers.settings import ReceiverSettings


def services(database: Database, settings: ReceiverSettings, root: Path) -> Mapping[int, Service]:
    return {}
