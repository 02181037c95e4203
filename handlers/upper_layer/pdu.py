"""Protocol data units of the upper layer, as the acceptor reads and writes them.

References: PS3.8 section 9.3 (structure of the PDUs), annex D and PS3.7 annex D (user information).
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass

from handlers.errors import ProtocolViolation

A_ASSOCIATE_RQ = 0x01
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA_TF = 0x04
A_RELEASE_RQ = 0x05
A_RELEASE_RP = 0x06
A_ABORT = 0x07

HEADER = struct.Struct(">BxI")
ITEM = struct.Struct(">BxH")
PDV = struct.Struct(">IBB")
APPLICATION_CONTEXT = b"1.2.840.10008.3.1.1.1"

MAXIMUM_ASSOCIATE_LENGTH = 262_144
"""An A-ASSOCIATE-RQ with 128 contexts of every transfer syntax is below this."""

HEAD_LENGTH = 68
"""Protocol version, AE titles and reserved bytes of an A-ASSOCIATE-RQ or -AC, in front of the items."""

RELEASE_RP = HEADER.pack(A_RELEASE_RP, 4) + bytes(4)
ABORT_BY_PROVIDER = HEADER.pack(A_ABORT, 4) + bytes((0, 0, 2, 0))
"""Source: service provider; reason: unexpected PDU (PS3.8 table 9-26)."""
ABORT_BY_USER = HEADER.pack(A_ABORT, 4) + bytes(4)


@dataclass(frozen=True, kw_only=True)
class ProposedContext:
    """A presentation context that the requestor proposes (PS3.8 table 9-13)."""

    identifier: int
    abstract_syntax: str
    transfer_syntaxes: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class RoleSelection:
    """Which roles the requestor wants to play for a SOP class (PS3.7 section D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, kw_only=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ. ``maximum_length`` 0 means no limit; the answer repeats ``head``."""

    head: bytes
    called_ae: str
    calling_ae: str
    application_context: str
    contexts: tuple[ProposedContext, ...]
    maximum_length: int
    roles: tuple[RoleSelection, ...]


@dataclass(frozen=True, kw_only=True)
class AnsweredContext:
    """The answer to a proposed context: result 0 accepted, 3 or 4 refused (PS3.8 table 9-18)."""

    identifier: int
    result: int
    transfer_syntax: str


def _items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise ProtocolViolation("an item of the A-ASSOCIATE-RQ is cut off")
        kind, length = ITEM.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise ProtocolViolation("an item of the A-ASSOCIATE-RQ is longer than the PDU")
        yield kind, data[position : position + length]
        position += length


def _text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip(" \0")


def parse_associate_request(data: bytes) -> AssociateRequest:
    """Read the variable part of an A-ASSOCIATE-RQ.

    Raises:
        ProtocolViolation: it is not built as PS3.8 section 9.3.2 says.
    """
    if len(data) < HEAD_LENGTH:
        raise ProtocolViolation("the A-ASSOCIATE-RQ is too short")
    contexts: list[ProposedContext] = []
    roles: list[RoleSelection] = []
    application_context = ""
    maximum_length = 16384
    for kind, item in _items(data[HEAD_LENGTH:]):
        if kind == 0x10:
            application_context = _text(item)
        elif kind == 0x20 and len(item) >= 4:
            syntaxes = list(_items(item[4:]))
            abstract = [_text(value) for sub, value in syntaxes if sub == 0x30]
            contexts.append(
                ProposedContext(
                    identifier=item[0],
                    abstract_syntax=abstract[0] if abstract else "",
                    transfer_syntaxes=tuple(_text(value) for sub, value in syntaxes if sub == 0x40),
                )
            )
        elif kind == 0x50:
            for sub, value in _items(item):
                if sub == 0x51 and len(value) == 4:
                    maximum_length = int.from_bytes(value, "big")
                elif sub == 0x54:
                    roles.append(_role(value))
    return AssociateRequest(
        head=data[:HEAD_LENGTH],
        called_ae=_text(data[4:20]),
        calling_ae=_text(data[20:36]),
        application_context=application_context,
        contexts=tuple(contexts),
        maximum_length=maximum_length,
        roles=tuple(roles),
    )


def _role(value: bytes) -> RoleSelection:
    length = int.from_bytes(value[:2], "big")
    if len(value) != length + 4:
        raise ProtocolViolation("a role selection item has a wrong length")
    return RoleSelection(sop_class_uid=_text(value[2 : 2 + length]), scu=bool(value[-2]), scp=bool(value[-1]))


def _item(kind: int, data: bytes) -> bytes:
    return ITEM.pack(kind, len(data)) + data


def encode_associate_accept(
    request: AssociateRequest,
    contexts: Sequence[AnsweredContext],
    maximum_length: int,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> bytes:
    """An A-ASSOCIATE-AC: the contexts as they are answered, the roles as they were proposed."""
    user = _item(0x51, struct.pack(">I", maximum_length)) + _item(0x52, implementation_class_uid.encode())
    for role in request.roles:
        uid = role.sop_class_uid.encode()
        user += _item(0x54, struct.pack(">H", len(uid)) + uid + bytes((role.scu, role.scp)))
    user += _item(0x55, implementation_version_name.encode())
    body = struct.pack(">HH", 1, 0) + request.head[4:] + _item(0x10, APPLICATION_CONTEXT)
    for context in contexts:
        answer = bytes((context.identifier, 0, context.result, 0))
        body += _item(0x21, answer + _item(0x40, context.transfer_syntax.encode()))
    body += _item(0x50, user)
    return HEADER.pack(A_ASSOCIATE_AC, len(body)) + body


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """An A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return HEADER.pack(A_ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def encode_data(context_id: int, data: bytes | memoryview, *, command: bool, last: bool) -> bytes:
    """A P-DATA-TF with one presentation data value (PS3.8 section 9.3.5 and annex E)."""
    control = (1 if command else 0) | (2 if last else 0)
    return HEADER.pack(P_DATA_TF, len(data) + 6) + PDV.pack(len(data) + 2, context_id, control) + bytes(data)


def split_data(data: memoryview, contexts: Container[int]) -> list[tuple[int, int, memoryview]]:
    """The presentation data values of a P-DATA-TF: context, message control header, fragment.

    Raises:
        ProtocolViolation: it is not built as PS3.8 section 9.3.5 says, or uses another context.
    """
    values: list[tuple[int, int, memoryview]] = []
    position = 0
    while position < len(data):
        if position + PDV.size > len(data):
            raise ProtocolViolation("a presentation data value is cut off")
        length, identifier, control = PDV.unpack_from(data, position)
        end = position + 4 + length
        if length < 2 or end > len(data):
            raise ProtocolViolation("a presentation data value has a wrong length")
        if identifier not in contexts:
            raise ProtocolViolation("a presentation context was used that was not accepted")
        values.append((identifier, control, data[position + PDV.size : end]))
        position = end
    return values
