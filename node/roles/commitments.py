"""Storage commitment with one destination: our requests to it, and our answers to its requests."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta

from db.commitment import Commitments, OwedReports
from db.database import Database
from db.errors import IllegalTransition
from db.index import Index
from db.records import Instance, OwedReport, Reference
from db.retry import DELIVERY
from handlers.dimse.commitment import CLASS_INSTANCE_CONFLICT, NO_SUCH_INSTANCE, PROCESSING_FAILURE, Report
from handlers.sending.commitment import request_commitment, send_report
from handlers.settings import Destination
from handlers.spool.stored_files import StoredFiles
from node.configuration.configuration import Configuration

log = logging.getLogger("overread.commitment")

REQUEST_SIZE = 500
"""Results in one request, at most."""
CLAIM_SECONDS = 300.0
"""Longer than a peer can take for one report."""
GIVE_UP_AFTER = timedelta(days=3)
"""How long a report is tried that a peer does not accept."""


class DestinationCommitments:
    """Handles storage commitment with one destination. Used by one thread.

    ``make_room`` is called before an association is opened, for destinations that serve one at a time.
    """

    def __init__(
        self,
        configuration: Configuration,
        database: Database,
        destination: Destination,
        make_room: Callable[[], None],
    ) -> None:
        self.destination = destination
        self.make_room = make_room
        self.calling_ae = configuration.node.ae_title
        self.files = StoredFiles(configuration.data_dir)
        self.commitments = Commitments(database)
        self.owed = OwedReports(database)
        self.index = Index(database)

    def step(self, busy: Callable[[], bool]) -> bool:
        """Send one report and make one request.

        Args:
            busy: whether there is other work, so that a request must not wait for the destination's answer.

        Returns:
            False if nothing was due.
        """
        reported = self._send_report()
        asked = self.destination.commit and self._send_request(busy)
        return reported or asked

    def _send_request(self, busy: Callable[[], bool]) -> bool:
        request = self.commitments.ask(self.destination.name, REQUEST_SIZE)
        if request is None:
            return False

        def apply(report: Report) -> bool:
            return self.commitments.apply_report(report.transaction_uid, report.committed, report.failed)

        self.make_room()
        answer = request_commitment(self.destination, self.calling_ae, request, apply, busy)
        if not answer.accepted:
            reason = f"storage commitment could not be asked for: {answer.reason}"
            self.commitments.request_failed(request, reason)
            log.warning("commitment_trouble destination=%s reason=%s", self.destination.name, answer.reason)
        return True

    def _send_report(self) -> bool:
        owed = self.owed.claim(self.destination.name, CLAIM_SECONDS)
        if owed is None:
            return False
        report = answer_for(owed.transaction_uid, owed.references, self.index, self.files)
        self.make_room()
        answer = send_report(self.destination, self.calling_ae, report)
        try:
            if answer.accepted:
                self.owed.sent(owed)
            else:
                self._postpone_or_give_up(owed, answer.reason)
        except IllegalTransition:
            log.warning("commitment_report_no_longer_ours report=%d", owed.id)
        return True

    def _postpone_or_give_up(self, owed: OwedReport, reason: str) -> None:
        now = datetime.now(UTC)
        name = self.destination.name
        if now - owed.created_at > GIVE_UP_AFTER:
            self.owed.failed(owed, reason)
            log.error("commitment_report_given_up destination=%s reason=%s", name, reason)
            return
        self.owed.postpone(owed, now + timedelta(seconds=DELIVERY.pause(owed.attempts)), reason)
        log.warning("commitment_report_delayed destination=%s reason=%s", name, reason)


def answer_for(
    transaction_uid: str, references: Sequence[Reference], index: Index, files: StoredFiles
) -> Report:
    """Our answer to a request: we commit to instances that have a row and a file of the right size."""
    found = index.find_instances([reference.sop_instance_uid for reference in references])
    committed: list[Reference] = []
    failed: dict[Reference, int] = {}
    for reference in references:
        instance = found.get(reference.sop_instance_uid)
        if instance is None:
            failed[reference] = NO_SUCH_INSTANCE
        elif instance.sop_class_uid != reference.sop_class_uid:
            failed[reference] = CLASS_INSTANCE_CONFLICT
        elif (reason := _file_failure(files, instance)) is not None:
            failed[reference] = reason
        else:
            committed.append(reference)
    return Report(transaction_uid=transaction_uid, committed=tuple(committed), failed=failed)


def _file_failure(files: StoredFiles, instance: Instance) -> int | None:
    """The Failure Reason if an instance's file is missing, incomplete or unreadable; otherwise None."""
    try:
        return None if files.size(instance.path) == instance.size else NO_SUCH_INSTANCE
    except FileNotFoundError:
        return NO_SUCH_INSTANCE
    except OSError as error:
        log.error("file_not_looked_at error=%s", error.strerror)
        return PROCESSING_FAILURE
