"""The courier process: takes results out of the outbox to each destination, each on its own thread."""

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
"""Longer than the slowest peer can take over one batch."""
POLL_SECONDS = 1.0
BATCH_SIZE = 12


def outcome_of(result: SendResult, attempts: int) -> DeliveryOutcome:
    """What a send result means for its delivery."""
    if result.delivered:
        return Sent(status=result.status or 0)
    if result.transient:
        return DeliveryRetry(seconds=DELIVERY.pause(attempts), reason=result.reason, status=result.status)
    return DeliveryFailed(reason=result.reason, status=result.status)


class DestinationCourier:
    """Serves one destination; a stuck peer holds up nobody else."""

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
        """Batches in a row that did not reach the destination."""
        self._not_before = 0.0

    def serve(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set."""
        broke_off: str | None = "its sender died"
        while not stop.is_set():
            self.wake.clear()  # before looking, so that nothing that comes meanwhile is missed
            try:
                if broke_off is not None:
                    self.outbox.release_sender(self.name, broke_off)
                    broke_off = None
                sent = time.monotonic() >= self._not_before and (
                    self.step(stop) or self.commitments.step(lambda: stop.is_set() or self.wake.is_set())
                )
            except DatabaseUnavailable as error:
                log.error("database_unavailable destination=%s error=%s", self.destination.name, error)
                broke_off, sent = "the database was away", False
            except Exception as error:
                # A fault of ours or of a library must not end this thread: nobody else serves the destination.
                broke_off, sent = self._fault(error), False
                self._pause_unless(False)
            if not sent:
                self.wake.wait(POLL_SECONDS)

    def step(self, stop: threading.Event) -> bool:
        """Send one batch over one association; False where nothing was due."""
        # One of them shows whether a destination is back that could not be reached.
        size = 1 if self._failures else BATCH_SIZE
        deliveries = self.outbox.claim(self.destination.name, self.name, size, LEASE_SECONDS)
        if not deliveries:
            return False
        files = self._files(deliveries)
        if not files:
            return True
        delivered: list[Delivery] = []
        answered = False
        try:
            for delivery, result in self._send(files):
                answered = answered or result.reached
                if result.delivered:
                    delivered.append(delivery)
                self._settle(delivery, result)
                if stop.is_set():
                    break
        finally:
            # Also where the database broke off: the destination has them all the same.
            self.audit.sent(self.sender.calling_ae, self.destination, delivered)
        self._pause_unless(answered)
        return True

    def _pause_unless(self, answered: bool) -> None:
        """Leave a destination alone for a while that cannot be reached: every object that waits would try it."""
        self._failures = 0 if answered else self._failures + 1
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

    def _files(self, deliveries: list[Delivery]) -> list[tuple[Delivery, FileToSend]]:
        """The deliveries with their files; one whose path is refused fails for good and holds up no other."""
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
        left = {delivery.sop_instance_uid: (delivery, file) for delivery, file in files}
        try:
            for result in self.sender.send([file for _, file in left.values()]):
                delivery, _ = left.pop(result.file.sop_instance_uid)
                yield delivery, result
        except Exception as error:
            # A library's fault on one object must not keep those behind it waiting: these are tried later.
            reason = self._fault(error)
            for delivery, file in left.values():
                yield (
                    delivery,
                    SendResult(file=file, delivered=False, transient=True, reason=reason, status=None),
                )

    def _fault(self, error: Exception) -> str:
        """Log an error that nobody foresaw; the reason for the database."""
        kind, place = type(error).__name__, raised_at(error)
        log.error("courier_failed destination=%s error=%s place=%s", self.destination.name, kind, place)
        return f"the courier failed ({kind}): see the log"


class Courier:
    """One thread for each destination, woken together."""

    def __init__(self, configuration: Configuration, database: Database, name: str) -> None:
        self.configuration = configuration
        self.outbox = Outbox(database)
        self.audit = AuditTrail(configuration.audit_settings())
        self.couriers = [
            DestinationCourier(configuration, database, name, destination, self.audit)
            for destination in configuration.destinations()
        ]

    def serve(self, stop: threading.Event) -> None:
        """Send until ``stop`` is set; the object in hand is finished first."""
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
