"""The audit trail: messages of PS3.15 section A.5 in an append-only file, one XML element a line.

Patients do not appear: studies are named by their UIDs.

References: PS3.15 section A.5 (audit trail message format profile), PS3.16 CID 400, 401, 402.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import Element, SubElement, tostring

if TYPE_CHECKING:
    from handlers.association import Association

log = logging.getLogger("overread.audit")

Coded = tuple[str, str]
SOURCE_ROLE: Coded = ("110153", "Source Role ID")
DESTINATION_ROLE: Coded = ("110152", "Destination Role ID")
APPLICATION: Coded = ("110150", "Application")
STUDY_UID: Coded = ("110180", "Study Instance UID")


class Event(Enum):
    """Event ID and event type codes (DCM), and the action code."""

    APPLICATION_START = (("110100", "Application Activity"), ("110120", "Application Start"), "E")
    APPLICATION_STOP = (("110100", "Application Activity"), ("110121", "Application Stop"), "E")
    ASSOCIATION_DENIED = (("110113", "Security Alert"), ("110126", "Node Authentication"), "E")
    INSTANCES_RECEIVED = (("110104", "DICOM Instances Transferred"), None, "C")
    INSTANCES_SENT = (("110104", "DICOM Instances Transferred"), None, "R")
    QUERY = (("110112", "Query"), None, "E")


@dataclass(frozen=True, kw_only=True)
class Participant:
    """One side of an event. ``address`` is a network address, empty for ourselves."""

    identity: str
    requestor: bool
    role: Coded
    address: str = ""


def participants_of(association: Association) -> tuple[Participant, Participant]:
    """The peer that associated with us, and ourselves."""
    return (
        Participant(
            identity=association.calling_ae,
            requestor=True,
            role=SOURCE_ROLE,
            address=association.peer_address,
        ),
        Participant(identity=association.called_ae, requestor=False, role=DESTINATION_ROLE),
    )


class AuditTrail:
    """Appends to ``audit.log`` below a folder; several processes may."""

    def __init__(self, folder: Path, source: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(
            folder / "audit.log", os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640
        )
        self.source = source

    def record(
        self,
        event: Event,
        participants: Iterable[Participant],
        *,
        studies: Iterable[str] = (),
        success: bool = True,
        instances: int | None = None,
    ) -> None:
        """Write one message; a disk that fails is logged, and the work goes on."""
        line = self._message(event, participants, studies, success, instances) + b"\n"
        try:
            # One write of one line: the kernel keeps appends of several processes apart.
            os.write(self._file, line)
        except OSError as error:
            log.error("audit_not_written event=%s error=%s", event.name, error.strerror)

    def close(self) -> None:
        os.close(self._file)

    def _message(
        self,
        event: Event,
        participants: Iterable[Participant],
        studies: Iterable[str],
        success: bool,
        instances: int | None,
    ) -> bytes:
        identifier, kind, action = event.value
        root = Element("AuditMessage")
        head = SubElement(
            root,
            "EventIdentification",
            EventActionCode=action,
            EventDateTime=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            EventOutcomeIndicator="0" if success else "4",
        )
        _code(head, "EventID", identifier)
        if kind is not None:
            _code(head, "EventTypeCode", kind)
        for participant in participants:
            element = SubElement(
                root,
                "ActiveParticipant",
                UserID=participant.identity,
                UserIsRequestor="true" if participant.requestor else "false",
            )
            if participant.address:
                element.set("NetworkAccessPointID", participant.address)
                element.set("NetworkAccessPointTypeCode", "2")
            _code(element, "RoleIDCode", participant.role)
        SubElement(root, "AuditSourceIdentification", AuditSourceID=self.source)
        for uid in studies:
            study = SubElement(
                root,
                "ParticipantObjectIdentification",
                ParticipantObjectID=uid,
                ParticipantObjectTypeCode="2",
                ParticipantObjectTypeCodeRole="3",
            )
            _code(study, "ParticipantObjectIDTypeCode", STUDY_UID)
            if instances is not None:
                description = SubElement(study, "ParticipantObjectDescription")
                SubElement(description, "SOPClass", NumberOfInstances=str(instances))
        encoded: bytes = tostring(root, encoding="utf-8")
        return encoded.replace(b"\n", b" ")


def _code(parent: Element, tag: str, code: Coded) -> None:
    SubElement(
        parent,
        tag,
        {"csd-code": code[0], "codeSystemName": "DCM", "displayName": code[1], "originalText": code[1]},
    )
