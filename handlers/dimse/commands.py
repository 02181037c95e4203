"""DIMSE commands: their fields, and their encoding in implicit VR little endian.

References: PS3.7 section 6.3.1 (encoding), annex E (command dictionary).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields

from handlers.encoding.elements import walk
from handlers.encoding.uids import IMPLICIT_LITTLE
from handlers.errors import ProtocolViolation, ScanError

C_STORE_RQ = 0x0001
C_STORE_RSP = 0x8001
C_GET_RQ = 0x0010
C_GET_RSP = 0x8010
C_FIND_RQ = 0x0020
C_FIND_RSP = 0x8020
C_MOVE_RQ = 0x0021
C_MOVE_RSP = 0x8021
C_ECHO_RQ = 0x0030
C_ECHO_RSP = 0x8030
C_CANCEL_RQ = 0x0FFF
N_EVENT_REPORT_RQ = 0x0100
N_EVENT_REPORT_RSP = 0x8100
N_ACTION_RQ = 0x0130
N_ACTION_RSP = 0x8130

NO_DATASET = 0x0101
WITH_DATASET = 0x0001

MAXIMUM_COMMAND_LENGTH = 16_384
LAST_COMMAND_TAG = 0x0000FFFF


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command set; absent fields are None."""

    affected_sop_class_uid: str | None = None
    requested_sop_class_uid: str | None = None
    command_field: int
    message_id: int | None = None
    message_id_responded_to: int | None = None
    move_destination: str | None = None
    priority: int | None = None
    dataset_type: int = NO_DATASET
    status: int | None = None
    error_comment: str | None = None
    affected_sop_instance_uid: str | None = None
    requested_sop_instance_uid: str | None = None
    event_type_id: int | None = None
    action_type_id: int | None = None
    remaining_suboperations: int | None = None
    completed_suboperations: int | None = None
    failed_suboperations: int | None = None
    warning_suboperations: int | None = None
    move_originator_ae: str | None = None
    move_originator_message_id: int | None = None

    @property
    def has_dataset(self) -> bool:
        """Whether a dataset follows the command."""
        return self.dataset_type != NO_DATASET


ELEMENTS = {
    "affected_sop_class_uid": 0x0002,
    "requested_sop_class_uid": 0x0003,
    "command_field": 0x0100,
    "message_id": 0x0110,
    "message_id_responded_to": 0x0120,
    "move_destination": 0x0600,
    "priority": 0x0700,
    "dataset_type": 0x0800,
    "status": 0x0900,
    "error_comment": 0x0902,
    "affected_sop_instance_uid": 0x1000,
    "requested_sop_instance_uid": 0x1001,
    "event_type_id": 0x1002,
    "action_type_id": 0x1008,
    "remaining_suboperations": 0x1020,
    "completed_suboperations": 0x1021,
    "failed_suboperations": 0x1022,
    "warning_suboperations": 0x1023,
    "move_originator_ae": 0x1030,
    "move_originator_message_id": 0x1031,
}
FIELDS_BY_ELEMENT = {element: name for name, element in ELEMENTS.items()}
TEXT_FIELDS = {field.name for field in fields(Command) if "str" in str(field.type)}
UID_FIELDS = {
    "affected_sop_class_uid",
    "requested_sop_class_uid",
    "affected_sop_instance_uid",
    "requested_sop_instance_uid",
}
ELEMENT_HEADER = struct.Struct("<HHI")


def encode_command(command: Command) -> bytes:
    """Encode a command set, its group length included; characters outside ASCII become question marks."""
    body = bytearray()
    for name, element in ELEMENTS.items():
        value = getattr(command, name)
        if value is None:
            continue
        if name in TEXT_FIELDS:
            data = value.encode("ascii", "replace")
            if len(data) % 2:
                data += b"\0" if name in UID_FIELDS else b" "
        else:
            data = struct.pack("<H", value)
        body += ELEMENT_HEADER.pack(0, element, len(data)) + data
    return ELEMENT_HEADER.pack(0, 0, 4) + struct.pack("<I", len(body)) + bytes(body)


def decode_command(data: bytes) -> Command:
    """Read a command set; elements that we do not use are skipped.

    Raises:
        ProtocolViolation: the bytes are not a command set.
    """
    values: dict[str, str | int] = {}
    try:
        for tag, _, value in walk(data, IMPLICIT_LITTLE):
            if tag > LAST_COMMAND_TAG or value is None:
                raise ProtocolViolation("a command element is not well formed")
            name = FIELDS_BY_ELEMENT.get(tag)
            if name is not None:
                values[name] = _field_value(name, bytes(value))
    except ScanError:
        raise ProtocolViolation("a command element is cut off") from None
    if "command_field" not in values:
        raise ProtocolViolation("the command has no Command Field")
    return Command(**values)  # type: ignore[arg-type]


def _field_value(name: str, value: bytes) -> str | int:
    if name in TEXT_FIELDS:
        return value.decode("ascii", "replace").strip(" \0")
    if len(value) != 2:
        raise ProtocolViolation("a command element has a wrong length")
    return int.from_bytes(value, "little")
