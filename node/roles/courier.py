"""The courier process: sends the results in the outbox, with one thread for each destination."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator

from db.database import Database
from db.errors import DatabaseUnavailable, StaleLease
from db.outbox import Outbox
from db.records import Delivery, DeliveryFailed, DeliveryOutcome, DeliveryRetry, Sent
from db.retry import DELIVERY, DESTINATION
from db.wakeup import Wakeup
from handlers.audit.trail import AuditTrail
from handlers.sending.sender import FileToSend, Sender, SendResult
from handlers.settings import Destination
from handlers.spool.stored_files import PathOutside, StoredFiles
from node.configuration.configuration import Configuration
from node.errors import raised_at
from node.roles.commitments import DestinationCommitments

log = logging.getLogger("overread.courier")

LEASE_SECONDS = 900.0
"""Longer than the slowest peer can take for one batch."""
POLL_SECONDS = 1.0
BATCH_SIZE = 12
"""Objects sent over one association, at most."""


def outcome_of(result: SendResult, attempts: int) -> DeliveryOutcome:
    """The outcome of a delivery whose object was sent ``attempts`` times."""
    if result.delivered:
        return Sent(status=result.status or 0)
    if result.transient:
        return DeliveryRetry(seconds=DELIVERY.pause(attempts), reason=result.reason, status=result.status)
    return DeliveryFailed(reason=result.reason, status=result.status)


class DestinationCourier:
    """Sends results to one destination. A peer that hangs delays no other."""

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
        self.sender = Sender(destination, configuration.node.ae_title)
        self.name = f"{name}:{destination.name}"
        self.wake = threading.Event()
        self.commitments = DestinationCommitments(configuration, database, destination)
        self._failures = 0
        """How many batches in a row did not reach the destination."""
        self._not_before = 0.0

    def serve(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set."""
        release_reason: str | None = "its sender died"
        while not stop.is_set():
            self.wake.clear()  # before the step, so that no hint that comes meanwhile is lost
            try:
                if release_reason is not None:
                    self.outbox.release_sender(self.name, release_reason)
                    release_reason = None
                sent = time.monotonic() >= self._not_before and (
                    self.step(stop) or self.commitments.step(lambda: stop.is_set() or self.wake.is_set())
                )
            except DatabaseUnavailable as error:
                log.error("database_unavailable destination=%s error=%s", self.destination.name, error)
                release_reason, sent = "the database was away", False
            except Exception as error:
                # No fault may end this thread, because no other one serves the destination.
                release_reason, sent = self._log_fault(error), False
                self._note_contact(reached=False)
            if not sent:
                self.wake.wait(POLL_SECONDS)

    def step(self, stop: threading.Event) -> bool:
        """Send one batch over one association; False if nothing was due."""
        # A single object shows whether an unreachable destination is back.
        size = 1 if self._failures else BATCH_SIZE
        deliveries = self.outbox.claim(self.destination.name, self.name, size, LEASE_SECONDS)
        if not deliveries:
            return False
        files = self._files_to_send(deliveries)
        if not files:
            return True
        delivered: list[Delivery] = []
        reached = False
        try:
            for delivery, result in self._send(files):
                reached = reached or result.reached
                if result.delivered:
                    delivered.append(delivery)
                self._settle(delivery, result)
                if stop.is_set():
                    break
        finally:
            # Also if the database failed: the destination has the objects all the same.
            self.audit.sent(self.sender.calling_ae, self.destination, delivered)
        self._note_contact(reached)
        return True

    def _note_contact(self, reached: bool) -> None:
        """Pause if the destination could not be reached: else every waiting object would try it."""
        self._failures = 0 if reached else self._failures + 1
        if self._failures:
            self._not_before = time.monotonic() + DESTINATION.pause(self._failures)

    def _settle(self, delivery: Delivery, result: SendResult) -> None:
        if not result.delivered or result.status:
            log.warning(
                "delivery_trouble delivery=%d destination=%s status=%s reason=%s",
                delivery.id,
                self.destination.name,
                "none" if result.status is None else f"{result.status:04X}",
                result.reason,
            )
        try:
            self.outbox.settle(delivery, outcome_of(result, delivery.attempts))
        except StaleLease:
            log.warning("delivery_no_longer_ours delivery=%d", delivery.id)

    def _files_to_send(self, deliveries: list[Delivery]) -> list[tuple[Delivery, FileToSend]]:
        """The deliveries with their files. A delivery with a path outside the data folder fails for good."""
        found: list[tuple[Delivery, FileToSend]] = []
        for delivery in deliveries:
            try:
                path = self.files.local(delivery.path)
            except PathOutside as error:
                log.error("delivery_refused delivery=%d reason=%s", delivery.id, error.strerror)
                self.outbox.settle(delivery, DeliveryFailed(reason=str(error.strerror), status=None))
                continue
            file = FileToSend(
                path=path,
                sop_class_uid=delivery.sop_class_uid,
                sop_instance_uid=delivery.sop_instance_uid,
                transfer_syntax_uid=delivery.transfer_syntax_uid,
            )
            found.append((delivery, file))
        return found

    def _send(self, files: list[tuple[Delivery, FileToSend]]) -> Iterator[tuple[Delivery, SendResult]]:
        unsent = {delivery.sop_instance_uid: (delivery, file) for delivery, file in files}
        try:
            for result in self.sender.send([file for _, file in unsent.values()]):
                delivery, _ = unsent.pop(result.file.sop_instance_uid)
                yield delivery, result
        except Exception as error:
            # A fault of a library on one object: the remaining ones are tried later.
            reason = self._log_fault(error)
            for delivery, file in unsent.values():
                yield (
                    delivery,
                    SendResult(file=file, delivered=False, transient=True, reason=reason, status=None),
                )

    def _log_fault(self, error: Exception) -> str:
        """Log an unexpected error; returns the reason for the database."""
        kind, place = type(error).__name__, raised_at(error)
        log.error("courier_failed destination=%s error=%s place=%s", self.destination.name, kind, place)
        return f"the courier failed ({kind}): see the log"


class Courier:
    """Runs one thread for each destination."""

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
                    courier.wake.set()
        wakeup.close()
        for courier in self.couriers:
            courier.wake.set()
        for thread in threads:
            thread.join()
        self.audit.close()
        log.info("courier_stopped")
