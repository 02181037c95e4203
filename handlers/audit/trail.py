"""The audit trail: messages of PS3.15 section A.5 in append-only files, one XML element a line, and to syslog.

Studies are named by their UIDs. Patients and the values of queries appear only where the settings ask for it.

References: PS3.15 section A.5 (audit trail message format profile), PS3.16 CID 400, 401, 402.
"""

from __future__ import annotations

import errno
import ipaddress
import logging
import os
import threading
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import Enum
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

from db.records import Delivery, Result
from handlers.audit.syslog import Severity, SyslogSender
from handlers.settings import AuditSettings

if TYPE_CHECKING:
    from handlers.upper_layer.association import Association

log = logging.getLogger("overread.audit")

Coded = tuple[str, str, str]
"""Code value, coding scheme and meaning."""
SOURCE_ROLE: Coded = ("110153", "DCM", "Source Role ID")
DESTINATION_ROLE: Coded = ("110152", "DCM", "Destination Role ID")
APPLICATION: Coded = ("110150", "DCM", "Application")
STUDY_UID: Coded = ("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID: Coded = ("110181", "DCM", "SOP Class UID")
NODE_ID: Coded = ("110182", "DCM", "Node ID")
PATIENT_NUMBER: Coded = ("2", "RFC-3881", "Patient Number")

PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT_ROLE, REPORT_ROLE, SECURITY_RESOURCE_ROLE = "1", "3", "13"
MACHINE_NAME, IP_ADDRESS = "1", "2"
APPLICATION_SERVER = "4"


class Event(Enum):
    """Event ID and event type codes, and the action code."""

    APPLICATION_START = (
        ("110100", "DCM", "Application Activity"),
        ("110120", "DCM", "Application Start"),
        "E",
    )
    """PS3.15 section A.5.3.1."""
    APPLICATION_STOP = (("110100", "DCM", "Application Activity"), ("110121", "DCM", "Application Stop"), "E")
    """PS3.15 section A.5.3.1."""
    ASSOCIATION_DENIED = (
        ("110113", "DCM", "Security Alert"),
        ("110126", "DCM", "Node Authentication"),
        "E",
    )
    """PS3.15 section A.5.3.11."""
    INSTANCES_RECEIVED = (("110104", "DCM", "DICOM Instances Transferred"), None, "C")
    """PS3.15 section A.5.3.7."""
    INSTANCES_SENT = (("110104", "DCM", "DICOM Instances Transferred"), None, "R")
    """PS3.15 section A.5.3.7."""
    QUERY = (("110112", "DCM", "Query"), None, "E")
    """PS3.15 section A.5.3.10."""


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One side of an event. ``address`` is a network address, empty for ourselves."""

    identity: str
    requestor: bool
    role: Coded
    address: str = ""


@dataclass(kw_only=True)
class StudyTally:
    """The instances of one study that an event is about, counted by SOP class."""

    study_instance_uid: str
    patient_id: str = ""
    sop_classes: Counter[str] = field(default_factory=Counter)


def studies_of(results: Iterable[Result | Delivery]) -> list[StudyTally]:
    """Our results, or what was delivered of them, by study."""
    studies: dict[str, StudyTally] = {}
    for result in results:
        study = studies.setdefault(
            result.study_instance_uid,
            StudyTally(study_instance_uid=result.study_instance_uid, patient_id=result.patient_id or ""),
        )
        study.sop_classes[result.sop_class_uid] += 1
    return list(studies.values())


@dataclass(frozen=True, kw_only=True)
class AskedQuery:
    """A query: its keywords, and its dataset as it came."""

    sop_class_uid: str
    transfer_syntax_uid: str
    keywords: Sequence[str]
    dataset: bytes


def peer_of(association: Association, role: Coded) -> Participant:
    """The peer that associated with us, in its role."""
    return Participant(
        identity=association.calling_ae, requestor=True, role=role, address=association.peer_address
    )


def ourselves(ae_title: str, role: Coded, *, requestor: bool = False) -> Participant:
    return Participant(identity=ae_title, requestor=requestor, role=role)


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

    def activity(self, event: Event) -> None:
        """The application started or stopped."""
        if self.settings is not None:
            self._record(self.settings, event, [ourselves(self.settings.source, APPLICATION)])

    def denied(self, association: Association, reason: str) -> None:
        """A peer was turned away."""
        if self.settings is None:
            return
        alert = _object(association.peer_address, SYSTEM_OBJECT, SECURITY_RESOURCE_ROLE, NODE_ID)
        _name(alert, association.peer_address)
        _detail(alert, "Alert Description", reason.encode())
        participants = [
            ourselves(self.settings.source, APPLICATION),
            peer_of(association, SOURCE_ROLE),
        ]
        self._record(self.settings, Event.ASSOCIATION_DENIED, participants, [alert], failure=reason)

    def transferred(
        self, event: Event, participants: Sequence[Participant], studies: Iterable[StudyTally]
    ) -> None:
        """Instances were received or sent: one message for each study."""
        if self.settings is None:
            return
        for study in studies:
            element = _object(study.study_instance_uid, SYSTEM_OBJECT, REPORT_ROLE, STUDY_UID)
            _name(element, study.study_instance_uid)
            description = SubElement(element, "ParticipantObjectDescription")
            for uid, count in study.sop_classes.items():
                SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))
            objects = [element]
            if self.settings.patients:
                patient = _object(study.patient_id, PERSON, PATIENT_ROLE, PATIENT_NUMBER)
                _name(patient, study.patient_id)
                objects.append(patient)
            self._record(self.settings, event, participants, objects)

    def queried(self, association: Association, query: AskedQuery) -> None:
        """A peer asked for what we have."""
        if self.settings is None:
            return
        asked = _object(query.sop_class_uid, SYSTEM_OBJECT, REPORT_ROLE, SOP_CLASS_UID)
        if self.settings.patients:
            SubElement(asked, "ParticipantObjectQuery").text = b64encode(query.dataset).decode()
        else:
            _name(asked, " ".join(query.keywords))
        _detail(asked, "TransferSyntax", query.transfer_syntax_uid.encode())
        participants = [
            peer_of(association, SOURCE_ROLE),
            ourselves(association.called_ae, DESTINATION_ROLE),
        ]
        self._record(self.settings, Event.QUERY, participants, [asked])

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
        message = _message(settings.source, now, event, participants, objects, failure)
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


def _message(
    source: str,
    now: datetime,
    event: Event,
    participants: Iterable[Participant],
    objects: Iterable[Element],
    failure: str | None,
) -> bytes:
    identifier, kind, action = event.value
    root = Element("AuditMessage")
    head = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator="0" if failure is None else "4",
    )
    _code(head, "EventID", identifier)
    if kind is not None:
        _code(head, "EventTypeCode", kind)
    if failure is not None:
        SubElement(head, "EventOutcomeDescription").text = _clean(failure)
    for participant in participants:
        element = SubElement(
            root,
            "ActiveParticipant",
            UserID=_clean(participant.identity),
            UserIsRequestor="true" if participant.requestor else "false",
        )
        if participant.address:
            element.set("NetworkAccessPointID", participant.address)
            element.set("NetworkAccessPointTypeCode", _access_point(participant.address))
        _code(element, "RoleIDCode", participant.role)
    reporter = SubElement(root, "AuditSourceIdentification", AuditSourceID=source)
    SubElement(reporter, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    root.extend(objects)
    encoded: bytes = tostring(root, encoding="utf-8")
    return encoded


def _object(identity: str, kind: str, role: str, code: Coded) -> Element:
    element = Element(
        "ParticipantObjectIdentification",
        ParticipantObjectID=_clean(identity),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _code(element, "ParticipantObjectIDTypeCode", code)
    return element


def _access_point(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return MACHINE_NAME
    return IP_ADDRESS


def _name(parent: Element, text: str) -> None:
    SubElement(parent, "ParticipantObjectName").text = _clean(text)


def _detail(parent: Element, kind: str, value: bytes) -> None:
    SubElement(parent, "ParticipantObjectDetail", type=kind, value=b64encode(value).decode())


def _code(parent: Element, tag: str, code: Coded) -> None:
    value, scheme, meaning = code
    SubElement(parent, tag, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _clean(text: str) -> str:
    """Text of a peer without characters that XML has no place for, or that would end the line."""
    return "".join(character if character.isprintable() else "?" for character in text)
