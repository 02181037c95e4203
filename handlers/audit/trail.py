"""The audit trail: messages in append-only files, one a line, and to syslog.

Studies are named by their UIDs. Patients and the values of queries appear only where the settings ask for it.

References: PS3.15 section A.5.3 (which event is recorded how).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from xml.etree.ElementTree import Element

from db.records import Delivery, Result
from handlers.audit.messages import (
    APPLICATION,
    DESTINATION_ROLE,
    SOURCE_ROLE,
    AskedQuery,
    Event,
    Participant,
    StudyTally,
    alert_object,
    encode_message,
    ourselves,
    patient_object,
    peer_side,
    query_object,
    study_object,
)
from handlers.audit.syslog import Severity, SyslogSender
from handlers.peer import Peer
from handlers.settings import AuditSettings, Destination

log = logging.getLogger("overread.audit")


class AuditTrail:
    """Appends to ``audit-<date>.log`` below a folder; several processes may. Without settings: writes nothing.

    Thread-safe. Events are recorded when they are over; a disk or a syslog server that fails is logged, and
    the work goes on.
    """

    def __init__(self, settings: AuditSettings | None) -> None:
        self.settings = settings
        self._lock = threading.Lock()
        self._day: date | None = None
        self._file: int | None = None
        self._syslog: SyslogSender | None = None
        if settings is not None:
            settings.folder.mkdir(parents=True, exist_ok=True)
            if settings.syslog is not None:
                self._syslog = SyslogSender(settings.syslog)

    def started(self) -> None:
        """The application started."""
        self._activity(Event.APPLICATION_START)

    def stopped(self) -> None:
        """The application stopped."""
        self._activity(Event.APPLICATION_STOP)

    def _activity(self, event: Event) -> None:
        if self.settings is not None:
            self._record(self.settings, event, [ourselves(self.settings.source, APPLICATION)])

    def denied(self, peer: Peer, reason: str) -> None:
        """A peer was turned away."""
        if self.settings is None:
            return
        sides = [ourselves(self.settings.source, APPLICATION), peer_side(peer, SOURCE_ROLE)]
        alert = alert_object(peer.address, reason)
        self._record(self.settings, Event.ASSOCIATION_DENIED, sides, [alert], failure=reason)

    def received(self, peer: Peer, studies: Iterable[StudyTally]) -> None:
        """A peer sent us instances."""
        sides = (peer_side(peer, SOURCE_ROLE), ourselves(peer.called_ae, DESTINATION_ROLE))
        self._transferred(Event.INSTANCES_RECEIVED, sides, studies)

    def sent(
        self,
        ae_title: str,
        destination: Destination,
        sent: Iterable[Result | Delivery],
        asked_by: Peer | None = None,
    ) -> None:
        """We, by this title, sent results to a destination, because a peer asked for it or by ourselves."""
        receiver = Participant(
            identity=destination.ae_title, requestor=False, role=DESTINATION_ROLE, address=destination.host
        )
        sides = [ourselves(ae_title, SOURCE_ROLE, requestor=asked_by is None), receiver]
        if asked_by is not None:
            sides.append(peer_side(asked_by, APPLICATION))
        self._transferred(Event.INSTANCES_SENT, sides, _studies_of(sent))

    def fetched(self, peer: Peer, sent: Iterable[Result]) -> None:
        """A peer got results over the association by which it asked for them."""
        sides = (ourselves(peer.called_ae, SOURCE_ROLE), peer_side(peer, DESTINATION_ROLE))
        self._transferred(Event.INSTANCES_SENT, sides, _studies_of(sent))

    def _transferred(self, event: Event, sides: Sequence[Participant], studies: Iterable[StudyTally]) -> None:
        """One message for each study."""
        if self.settings is None:
            return
        for study in studies:
            objects = [study_object(study)]
            if self.settings.patients:
                objects.append(patient_object(study.patient_id))
            self._record(self.settings, event, sides, objects)

    def queried(self, peer: Peer, query: AskedQuery) -> None:
        """A peer asked for what we have."""
        if self.settings is None:
            return
        sides = [peer_side(peer, SOURCE_ROLE), ourselves(peer.called_ae, DESTINATION_ROLE)]
        asked = query_object(query, whole=self.settings.patients)
        self._record(self.settings, Event.QUERY, sides, [asked])

    def close(self) -> None:
        """Give syslog a moment to take what is waiting."""
        with self._lock:
            if self._file is not None:
                os.close(self._file)
                self._file = None
        if self._syslog is not None:
            self._syslog.close()

    def _record(
        self,
        settings: AuditSettings,
        event: Event,
        participants: Iterable[Participant],
        objects: Iterable[Element] = (),
        failure: str | None = None,
    ) -> None:
        now = datetime.now(UTC)
        message = encode_message(settings.source, now, event, participants, objects, failure)
        try:
            self._append(settings, now.date(), message + b"\n")
        except OSError as error:
            log.error("audit_not_written kind=%s error=%s", event.name, error.strerror)
        if self._syslog is not None:
            self._syslog.put(now, message, Severity.WARNING if failure is not None else Severity.NOTICE)

    def _append(self, settings: AuditSettings, day: date, line: bytes) -> None:
        with self._lock:
            if self._file is None or day != self._day:
                path = settings.folder / f"audit-{day.isoformat()}.log"
                opened = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
                if self._file is not None:
                    os.close(self._file)
                self._file, self._day = opened, day
            # One write of one line: the kernel keeps appends of several processes apart.
            if _ends_within_a_line(self._file):
                line = b"\n" + line
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, "the line was cut off, as on a full disk")


def _ends_within_a_line(file: int) -> bool:
    """Whether the last line was cut off, by this process or by another one."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _studies_of(results: Iterable[Result | Delivery]) -> list[StudyTally]:
    """Our results, or what was delivered of them, by study."""
    studies: dict[str, StudyTally] = {}
    for result in results:
        study = studies.setdefault(
            result.study_instance_uid,
            StudyTally(study_instance_uid=result.study_instance_uid, patient_id=result.patient_id or ""),
        )
        study.sop_classes[result.sop_class_uid] += 1
    return list(studies.values())
