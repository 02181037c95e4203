"""Audit messages: what they name, and their XML.

References: PS3.15 section A.5 (audit trail message format profile), PS3.16 CID 400, 401, 402.
"""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from xml.etree.ElementTree import Element, SubElement, tostring

from handlers.peer import Peer

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


@dataclass(frozen=True, kw_only=True)
class AskedQuery:
    """A query: its keywords, and its dataset as it came."""

    sop_class_uid: str
    transfer_syntax_uid: str
    keywords: Sequence[str]
    dataset: bytes


def peer_side(peer: Peer, role: Coded) -> Participant:
    """The peer that associated with us, in its role."""
    return Participant(identity=peer.calling_ae, requestor=True, role=role, address=peer.address)


def ourselves(ae_title: str, role: Coded, *, requestor: bool = False) -> Participant:
    """This node as a side of an event."""
    return Participant(identity=ae_title, requestor=requestor, role=role)


def study_object(study: StudyTally) -> Element:
    """The study that instances of were transferred."""
    element = _object(study.study_instance_uid, SYSTEM_OBJECT, REPORT_ROLE, STUDY_UID)
    _name(element, study.study_instance_uid)
    description = SubElement(element, "ParticipantObjectDescription")
    for uid, count in study.sop_classes.items():
        SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))
    return element


def patient_object(patient_id: str) -> Element:
    """The patient whose instances were transferred."""
    element = _object(patient_id, PERSON, PATIENT_ROLE, PATIENT_NUMBER)
    _name(element, patient_id)
    return element


def query_object(query: AskedQuery, *, whole: bool) -> Element:
    """A query: the whole of it, or no more than its keywords."""
    element = _object(query.sop_class_uid, SYSTEM_OBJECT, REPORT_ROLE, SOP_CLASS_UID)
    if whole:
        SubElement(element, "ParticipantObjectQuery").text = b64encode(query.dataset).decode()
    else:
        _name(element, " ".join(query.keywords))
    _detail(element, "TransferSyntax", query.transfer_syntax_uid.encode())
    return element


def alert_object(address: str, reason: str) -> Element:
    """The node that a security alert is about."""
    element = _object(address, SYSTEM_OBJECT, SECURITY_RESOURCE_ROLE, NODE_ID)
    _name(element, address)
    _detail(element, "Alert Description", reason.encode())
    return element


def encode_message(
    source: str,
    now: datetime,
    event: Event,
    participants: Iterable[Participant],
    objects: Iterable[Element],
    failure: str | None,
) -> bytes:
    """One AuditMessage element on one line; ``failure`` says what went wrong, None where nothing did."""
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
