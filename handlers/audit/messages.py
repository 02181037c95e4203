"""Audit messages: their parts as values, and their XML.

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

CodedTerm = tuple[str, str, str]
"""Code value, coding scheme and meaning."""
SOURCE_ROLE: CodedTerm = ("110153", "DCM", "Source Role ID")
DESTINATION_ROLE: CodedTerm = ("110152", "DCM", "Destination Role ID")
APPLICATION: CodedTerm = ("110150", "DCM", "Application")
STUDY_UID: CodedTerm = ("110180", "DCM", "Study Instance UID")
SOP_CLASS_UID: CodedTerm = ("110181", "DCM", "SOP Class UID")
NODE_ID: CodedTerm = ("110182", "DCM", "Node ID")
PATIENT_NUMBER: CodedTerm = ("2", "RFC-3881", "Patient Number")

PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT_ROLE, REPORT_ROLE, SECURITY_RESOURCE_ROLE = "1", "3", "13"
MACHINE_NAME, IP_ADDRESS = "1", "2"
APPLICATION_SERVER = "4"


class Event(Enum):
    """An audited event: event ID, event type (or None) and action code."""

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
    """One side of an event. ``address`` is an IP address or host name, empty for this node."""

    identity: str
    requestor: bool
    role: CodedTerm
    address: str = ""


@dataclass(kw_only=True)
class StudyTally:
    """How many instances of one study an event is about, by SOP class."""

    study_instance_uid: str
    patient_id: str = ""
    sop_classes: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True, kw_only=True)
class AuditedQuery:
    """A query to record: its keywords, and its dataset as received."""

    sop_class_uid: str
    transfer_syntax_uid: str
    keywords: Sequence[str]
    dataset: bytes


def peer_participant(peer: Peer, role: CodedTerm) -> Participant:
    """The peer that associated with us, as a participant with this role."""
    return Participant(identity=peer.calling_ae, requestor=True, role=role, address=peer.address)


def own_participant(ae_title: str, role: CodedTerm, *, requestor: bool = False) -> Participant:
    """This node, as a participant with this role."""
    return Participant(identity=ae_title, requestor=requestor, role=role)


def study_object(study: StudyTally) -> Element:
    """The object for the study whose instances were transferred."""
    element = _participant_object(study.study_instance_uid, SYSTEM_OBJECT, REPORT_ROLE, STUDY_UID)
    _add_name(element, study.study_instance_uid)
    description = SubElement(element, "ParticipantObjectDescription")
    for uid, count in study.sop_classes.items():
        SubElement(description, "SOPClass", UID=uid, NumberOfInstances=str(count))
    return element


def patient_object(patient_id: str) -> Element:
    """The object for the patient whose instances were transferred."""
    element = _participant_object(patient_id, PERSON, PATIENT_ROLE, PATIENT_NUMBER)
    _add_name(element, patient_id)
    return element


def query_object(query: AuditedQuery, *, whole: bool) -> Element:
    """The object for a query: its dataset if ``whole``, otherwise only its keywords."""
    element = _participant_object(query.sop_class_uid, SYSTEM_OBJECT, REPORT_ROLE, SOP_CLASS_UID)
    if whole:
        SubElement(element, "ParticipantObjectQuery").text = b64encode(query.dataset).decode()
    else:
        _add_name(element, " ".join(query.keywords))
    _add_detail(element, "TransferSyntax", query.transfer_syntax_uid.encode())
    return element


def alert_object(address: str, reason: str) -> Element:
    """The object for the node that a security alert is about."""
    element = _participant_object(address, SYSTEM_OBJECT, SECURITY_RESOURCE_ROLE, NODE_ID)
    _add_name(element, address)
    _add_detail(element, "Alert Description", reason.encode())
    return element


def encode_message(
    source: str,
    now: datetime,
    event: Event,
    participants: Iterable[Participant],
    objects: Iterable[Element],
    failure: str | None,
) -> bytes:
    """One AuditMessage element on one line, UTF-8; ``failure`` says what went wrong, None if nothing did."""
    identifier, kind, action = event.value
    root = Element("AuditMessage")
    head = SubElement(
        root,
        "EventIdentification",
        EventActionCode=action,
        EventDateTime=now.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        EventOutcomeIndicator="0" if failure is None else "4",
    )
    _add_code(head, "EventID", identifier)
    if kind is not None:
        _add_code(head, "EventTypeCode", kind)
    if failure is not None:
        SubElement(head, "EventOutcomeDescription").text = _replace_unprintable(failure)
    for participant in participants:
        element = SubElement(
            root,
            "ActiveParticipant",
            UserID=_replace_unprintable(participant.identity),
            UserIsRequestor="true" if participant.requestor else "false",
        )
        if participant.address:
            element.set("NetworkAccessPointID", participant.address)
            element.set("NetworkAccessPointTypeCode", _access_point_type(participant.address))
        _add_code(element, "RoleIDCode", participant.role)
    reporter = SubElement(root, "AuditSourceIdentification", AuditSourceID=source)
    SubElement(reporter, "AuditSourceTypeCode", {"csd-code": APPLICATION_SERVER})
    root.extend(objects)
    encoded: bytes = tostring(root, encoding="utf-8")
    return encoded


def _participant_object(identity: str, kind: str, role: str, code: CodedTerm) -> Element:
    element = Element(
        "ParticipantObjectIdentification",
        ParticipantObjectID=_replace_unprintable(identity),
        ParticipantObjectTypeCode=kind,
        ParticipantObjectTypeCodeRole=role,
    )
    _add_code(element, "ParticipantObjectIDTypeCode", code)
    return element


def _access_point_type(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        return MACHINE_NAME
    return IP_ADDRESS


def _add_name(parent: Element, text: str) -> None:
    SubElement(parent, "ParticipantObjectName").text = _replace_unprintable(text)


def _add_detail(parent: Element, kind: str, value: bytes) -> None:
    SubElement(parent, "ParticipantObjectDetail", type=kind, value=b64encode(value).decode())


def _add_code(parent: Element, tag: str, code: CodedTerm) -> None:
    value, scheme, meaning = code
    SubElement(parent, tag, {"csd-code": value, "codeSystemName": scheme, "originalText": meaning})


def _replace_unprintable(text: str) -> str:
    """Text with every character that XML forbids, or that would end the line, replaced by a question mark."""
    return "".join(character if character.isprintable() else "?" for character in text)
