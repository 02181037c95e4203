"""The audit trail: messages in append-only files, one per line, and to syslog.

Studies are identified by their UIDs. Patient IDs and the values of queries are recorded only if the settings say so.

References: PS3.15 section A.5.3 (the content of each event's message).
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
    AuditedQuery,
    Event,
    Participant,
    StudyTally,
    alert_object,
    encode_message,
    own_participant,
    patient_object,
    peer_participant,
    query_object,
    study_object,
)
from handlers.audit.syslog import Severity, SyslogSender
from handlers.peer import Peer
from handlers.settings import AuditSettings, Destination

log = logging.getLogger("overread.audit")


class AuditTrail:
    """Appends to ``audit-<date>.log`` (date in UTC) in a folder that several processes may share. Thread-safe.

    Without settings it writes nothing. Events are recorded after they have happened. If the disk or the syslog
    server fails, that is logged and the work goes on.
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
        self._record_activity(Event.APPLICATION_START)

    def stopped(self) -> None:
        """The application stopped."""
        self._record_activity(Event.APPLICATION_STOP)

    def _record_activity(self, event: Event) -> None:
        if self.settings is not None:
            self._record(self.settings, event, [own_participant(self.settings.source, APPLICATION)])

    def denied(self, peer: Peer, reason: str) -> None:
        """A peer was turned away."""
        if self.settings is None:
            return
        sides = [own_participant(self.settings.source, APPLICATION), peer_participant(peer, SOURCE_ROLE)]
        alert = alert_object(peer.address, reason)
        self._record(self.settings, Event.ASSOCIATION_DENIED, sides, [alert], failure=reason)

    def received(self, peer: Peer, studies: Iterable[StudyTally]) -> None:
        """A peer sent us instances."""
        sides = (peer_participant(peer, SOURCE_ROLE), own_participant(peer.called_ae, DESTINATION_ROLE))
        self._record_transfer(Event.INSTANCES_RECEIVED, sides, studies)

    def sent(
        self,
        ae_title: str,
        destination: Destination,
        sent: Iterable[Result | Delivery],
        asked_by: Peer | None = None,
    ) -> None:
        """We sent results, as ``ae_title``, to a destination; ``asked_by`` is the peer that requested this, if any."""
        receiver = Participant(
            identity=destination.ae_title, requestor=False, role=DESTINATION_ROLE, address=destination.host
        )
        sides = [own_participant(ae_title, SOURCE_ROLE, requestor=asked_by is None), receiver]
        if asked_by is not None:
            sides.append(peer_participant(asked_by, APPLICATION))
        self._record_transfer(Event.INSTANCES_SENT, sides, _tally_by_study(sent))

    def fetched(self, peer: Peer, sent: Iterable[Result]) -> None:
        """A peer retrieved results over its own association."""
        sides = (own_participant(peer.called_ae, SOURCE_ROLE), peer_participant(peer, DESTINATION_ROLE))
        self._record_transfer(Event.INSTANCES_SENT, sides, _tally_by_study(sent))

    def _record_transfer(
        self, event: Event, sides: Sequence[Participant], studies: Iterable[StudyTally]
    ) -> None:
        """Record one message for each study."""
        if self.settings is None:
            return
        for study in studies:
            objects = [study_object(study)]
            if self.settings.patients:
                objects.append(patient_object(study.patient_id))
            self._record(self.settings, event, sides, objects)

    def queried(self, peer: Peer, query: AuditedQuery) -> None:
        """A peer sent a query."""
        if self.settings is None:
            return
        sides = [peer_participant(peer, SOURCE_ROLE), own_participant(peer.called_ae, DESTINATION_ROLE)]
        asked = query_object(query, whole=self.settings.patients)
        self._record(self.settings, Event.QUERY, sides, [asked])

    def close(self) -> None:
        """Close the file, and give the syslog sender a moment to send what is queued."""
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
            # One write for each line: the kernel does not mix the appends of several processes.
            if _last_line_is_cut_off(self._file):
                line = b"\n" + line
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, "the line was cut off, as on a full disk")


def _last_line_is_cut_off(file: int) -> bool:
    """Whether the last line was cut off, whichever process wrote it."""
    size = os.fstat(file).st_size
    return size > 0 and os.pread(file, 1, size - 1) != b"\n"


def _tally_by_study(results: Iterable[Result | Delivery]) -> list[StudyTally]:
    """Results or deliveries, counted by study and SOP class."""
    studies: dict[str, StudyTally] = {}
    for result in results:
        study = studies.setdefault(
            result.study_instance_uid,
            StudyTally(study_instance_uid=result.study_instance_uid, patient_id=result.patient_id or ""),
        )
        study.sop_classes[result.sop_class_uid] += 1
    return list(studies.values())
