"""The services that a receiver offers, by the command that requests them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from db.database import Database
from handlers.audit.trail import AuditTrail
from handlers.dimse.commands import (
    C_ECHO_RQ,
    C_FIND_RQ,
    C_GET_RQ,
    C_MOVE_RQ,
    C_STORE_RQ,
    N_ACTION_RQ,
    N_EVENT_REPORT_RQ,
)
from handlers.dimse.messages import Service
from handlers.services.commitment import CommitmentReports, CommitmentRequests
from handlers.services.query import Query
from handlers.services.retrieval import Get, Move
from handlers.services.storage import Storage
from handlers.services.verification import verify
from handlers.settings import ReceiverSettings
from handlers.spool.intake import Intake


class Services:
    """The services of one receiver process; ``data_folder`` is the folder to which paths of results are relative."""

    def __init__(
        self,
        settings: ReceiverSettings,
        database: Database,
        data_folder: Path,
        run_directory: Path,
        audit: AuditTrail,
    ) -> None:
        self._intake = Intake(database, settings, run_directory, audit)
        self.storage = Storage(self._intake)
        self.by_command: Mapping[int, Service] = {
            C_ECHO_RQ: verify,
            C_STORE_RQ: self.storage,
            C_FIND_RQ: Query(database, settings.ae_title, audit),
            C_MOVE_RQ: Move(database, settings, data_folder, audit),
            C_GET_RQ: Get(database, settings, data_folder, audit),
            N_ACTION_RQ: CommitmentRequests(database, settings, run_directory),
            N_EVENT_REPORT_RQ: CommitmentReports(database, settings),
        }

    def close(self) -> None:
        """Remove the empty files that the spool has made in advance."""
        self._intake.close()
