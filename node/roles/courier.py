"""The courier process: sends the results in the outbox, with threads of its own for each destination."""

from __future__ import annotations

import logging
import threading
import time

from db.database import Database
from db.errors import DatabaseUnavailable
from db.outbox import Outbox
from db.records import Delivery, DeliveryFailed, DeliveryOutcome, DeliveryRetry, Sent
from db.retry import DELIVERY, DESTINATION
from db.wakeup import Wakeup
from handlers.audit.trail import AuditTrail
from handlers.sending.parallel import ParallelSender
from handlers.sending.sender import FileToSend, SendResult
from handlers.settings import Destination
from handlers.spool.stored_files import PathOutside, StoredFiles
from node.configuration.configuration import Configuration
from node.errors import raised_at
from node.roles.commitments import DestinationCommitments

log = logging.getLogger("overread.courier")

LEASE_SECONDS = 900.0
"""Longer than the slowest peer can take for ``WINDOW`` objects on one association."""
POLL_SECONDS = 1.0
WINDOW = 12
"""Objects held for each established association, at most."""


def outcome_of(result: SendResult, attempts: int) -> DeliveryOutcome:
    """The outcome of a delivery whose object was sent ``attempts`` times."""
    if result.delivered:
        return Sent(status=result.status or 0)
    if result.transient:
        return DeliveryRetry(seconds=DELIVERY.pause(attempts), reason=result.reason, status=result.status)
    return DeliveryFailed(reason=result.reason, status=result.status)


class DestinationCourier:
    """Sends results to one destination. A peer that hangs delays no other.

    Associations send in threads of their own; the thread of ``serve`` claims for them and records what came of it,
    many deliveries in one transaction.
    """

    def __init__(
        self,
        configuration: Configuration,
        database: Database,
        name: str,
        destination: Destination,
        audit: AuditTrail,
    ) -> None:
        self.destination = destination
        self.audit = audit
        self.outbox = Outbox(database)
        self.files = StoredFiles(configuration.data_dir)
        self.calling_ae = configuration.node.ae_title
        self.name = f"{name}:{destination.name}"
        self.wake = threading.Event()
        self.sender = ParallelSender(destination, self.calling_ae, self.wake.set, self._log_fault)
        self.commitments = DestinationCommitments(
            configuration, database, destination, self.sender.release_idle
        )
        self._held: dict[str, Delivery] = {}
        """By SOP Instance UID, the deliveries that the sender has and has no result for."""
        self._outcomes: list[tuple[Delivery, DeliveryOutcome]] = []
        """What came of deliveries and is not recorded yet."""
        self._release_reason: str | None = "its sender died"
        """Why rows that are ours in the database, but not here, have to be given back."""
        self._look_at = 0.0
        """When to look for what is due, unless a hint comes."""
        self._failures = 0
        """How many times in a row the destination was not reached."""
        self._not_before = 0.0

    def hint(self) -> None:
        """Look for what is due at once."""
        self._look_at = 0.0
        self.wake.set()

    def serve(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set."""
        while not stop.is_set():
            self.wake.clear()  # before the step, so that no hint that comes meanwhile is lost
            try:
                worked = self.step(stop)
            except DatabaseUnavailable as error:
                log.error("database_unavailable destination=%s error=%s", self.destination.name, error)
                self._release_reason, worked = "the database was away", False
            except Exception as error:
                # No fault may end this thread, because no other one serves the destination.
                self._release_reason, worked = self._log_fault(error), False
                self._outcomes.clear()
                self._note_contact(reached=False)
            if not worked:
                self.wake.wait(POLL_SECONDS)
        self.sender.close()
        try:
            self._take_results()
            self._settle()
            self.outbox.release_sender(self.name, "the courier stopped")
        except DatabaseUnavailable as error:
            log.error("database_unavailable destination=%s error=%s", self.destination.name, error)

    def step(self, stop: threading.Event) -> bool:
        """Record results, hand the sender what is due, and see to storage commitment if it has nothing to send.

        Returns:
            False if there was nothing to do.
        """
        self._take_results()
        settled = self._settle()
        if self._release_reason is not None:
            if self._held:
                return settled
            self.outbox.release_sender(self.name, self._release_reason)
            self._release_reason = None
        if self._hand_over() or settled:
            return True
        if self._held or time.monotonic() < self._not_before:
            return False
        return self.commitments.step(lambda: stop.is_set() or self.wake.is_set())

    def _take_results(self) -> None:
        """Note what came of deliveries, in the audit trail too: the destination has the objects whatever follows."""
        results = self.sender.take_results()
        if not results:
            return
        settled = [(self._held.pop(result.file.sop_instance_uid), result) for result in results]
        self._note_contact(reached=any(result.reached for result in results))
        self.audit.sent(self.calling_ae, self.destination, [d for d, result in settled if result.delivered])
        for delivery, result in settled:
            self._outcomes.append((delivery, outcome_of(result, delivery.attempts)))
            if not result.delivered or result.status:
                log.warning(
                    "delivery_trouble delivery=%d destination=%s status=%s reason=%s",
                    delivery.id,
                    self.destination.name,
                    "none" if result.status is None else f"{result.status:04X}",
                    result.reason,
                )

    def _note_contact(self, *, reached: bool) -> None:
        """Pause if the destination could not be reached: else every waiting object would try it."""
        if not reached:
            self._failures += 1
            self._not_before = time.monotonic() + DESTINATION.pause(self._failures)
        elif self._failures:
            self._failures = 0
            self._not_before = self._look_at = 0.0

    def _settle(self) -> bool:
        """Record the outcomes; they are kept if the database is away. Whether there were any."""
        if not self._outcomes:
            return False
        for delivery in self.outbox.settle(self._outcomes):
            log.warning("delivery_no_longer_ours delivery=%d", delivery.id)
        self._outcomes = []
        return True

    def _hand_over(self) -> bool:
        """Claim what is due, as much as the sender has room for; whether anything was."""
        now = time.monotonic()
        if now < max(self._look_at, self._not_before):
            return False
        # A single object shows whether an unreachable destination is back.
        window = 1 if self._failures else WINDOW * max(self.sender.associations, 1)
        room = window - len(self._held)
        if 2 * room < window:
            return False
        self._look_at = now + POLL_SECONDS  # before the claim, so that no hint that comes meanwhile is lost
        deliveries = self.outbox.claim(self.destination.name, self.name, room, LEASE_SECONDS)
        if len(deliveries) == room:
            self._look_at = 0.0
        self.sender.put(self._files_to_send(deliveries))
        return bool(deliveries)

    def _files_to_send(self, deliveries: list[Delivery]) -> list[FileToSend]:
        """The files of deliveries. A delivery with a path outside the data folder fails for good."""
        files: list[FileToSend] = []
        for delivery in deliveries:
            try:
                path = self.files.local(delivery.path)
            except PathOutside as error:
                log.error("delivery_refused delivery=%d reason=%s", delivery.id, error.strerror)
                refused = DeliveryFailed(reason=str(error.strerror), status=None)
                self._outcomes.append((delivery, refused))
                continue
            self._held[delivery.sop_instance_uid] = delivery
            files.append(
                FileToSend(
                    path=path,
                    sop_class_uid=delivery.sop_class_uid,
                    sop_instance_uid=delivery.sop_instance_uid,
                    transfer_syntax_uid=delivery.transfer_syntax_uid,
                )
            )
        return files

    def _log_fault(self, error: Exception) -> str:
        """Log an unexpected error; returns the reason for the database."""
        kind, place = type(error).__name__, raised_at(error)
        log.error("courier_failed destination=%s error=%s place=%s", self.destination.name, kind, place)
        return f"the courier failed ({kind}): see the log"


class Courier:
    """Runs the threads of all destinations."""

    def __init__(self, configuration: Configuration, database: Database, name: str) -> None:
        self.configuration = configuration
        self.outbox = Outbox(database)
        self.audit = AuditTrail(configuration.audit_settings())
        self.couriers = [
            DestinationCourier(configuration, database, name, destination, self.audit)
            for destination in configuration.destinations()
        ]

    def serve(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set. Objects that are being sent are finished first."""
        wakeup = Wakeup(self.configuration.run_dir, "courier")
        threads = [
            threading.Thread(target=courier.serve, args=(stop,), name=f"courier-{courier.destination.name}")
            for courier in self.couriers
        ]
        for thread in threads:
            thread.start()
        log.info("courier_started destinations=%d", len(threads))
        while not stop.is_set():
            if wakeup.wait(POLL_SECONDS):
                for courier in self.couriers:
                    courier.hint()
        wakeup.close()
        for courier in self.couriers:
            courier.wake.set()
        for thread in threads:
            thread.join()
        self.audit.close()
        log.info("courier_stopped")
