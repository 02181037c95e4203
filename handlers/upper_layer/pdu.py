"""The protocol data units of the upper layer that acceptor and requestor read and write.

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
"""Bytes; an A-ASSOCIATE-RQ with 128 contexts, each with every transfer syntax, is shorter."""

DEFAULT_LENGTH = 16_384
"""The maximum length of a peer that names none, which PS3.8 section D.1 forbids: what most then use."""

HEAD_LENGTH = 68
"""Bytes before the items of an A-ASSOCIATE-RQ or -AC: protocol version, AE titles, reserved bytes."""

RELEASE_RQ = HEADER.pack(A_RELEASE_RQ, 4) + bytes(4)
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
    """The roles that the requestor proposes for a SOP class (PS3.7 section D.3.3.4)."""

    sop_class_uid: str
    scu: bool
    scp: bool


@dataclass(frozen=True, kw_only=True)
class AssociateRequest:
    """An A-ASSOCIATE-RQ. ``maximum_length`` 0 means no limit; ``head`` is repeated in the answer."""

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


@dataclass(frozen=True, kw_only=True)
class AssociateAccept:
    """What we use of an A-ASSOCIATE-AC. ``maximum_length`` 0 means no limit."""

    contexts: tuple[AnsweredContext, ...]
    maximum_length: int


def _split_items(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position < len(data):
        if position + 4 > len(data):
            raise ProtocolViolation("an item of the association PDU is cut off")
        kind, length = ITEM.unpack_from(data, position)
        position += 4
        if position + length > len(data):
            raise ProtocolViolation("an item of the association PDU is longer than the PDU")
        yield kind, data[position : position + length]
        position += length


def _decode_text(data: bytes) -> str:
    return data.decode("ascii", "replace").strip(" \0")


def parse_associate_request(data: bytes) -> AssociateRequest:
    """Read the variable part of an A-ASSOCIATE-RQ.

    Raises:
        ProtocolViolation: its structure is not that of PS3.8 section 9.3.2.
    """
    if len(data) < HEAD_LENGTH:
        raise ProtocolViolation("the A-ASSOCIATE-RQ is too short")
    contexts: list[ProposedContext] = []
    roles: list[RoleSelection] = []
    application_context = ""
    maximum_length = DEFAULT_LENGTH
    for kind, item in _split_items(data[HEAD_LENGTH:]):
        if kind == 0x10:
            application_context = _decode_text(item)
        elif kind == 0x20 and len(item) >= 4:
            syntaxes = list(_split_items(item[4:]))
            abstract = [_decode_text(value) for sub, value in syntaxes if sub == 0x30]
            contexts.append(
                ProposedContext(
                    identifier=item[0],
                    abstract_syntax=abstract[0] if abstract else "",
                    transfer_syntaxes=tuple(_decode_text(value) for sub, value in syntaxes if sub == 0x40),
                )
            )
        elif kind == 0x50:
            for sub, value in _split_items(item):
                if sub == 0x51 and len(value) == 4:
                    maximum_length = int.from_bytes(value, "big")
                elif sub == 0x54:
                    roles.append(_parse_role(value))
    return AssociateRequest(
        head=data[:HEAD_LENGTH],
        called_ae=_decode_text(data[4:20]),
        calling_ae=_decode_text(data[20:36]),
        application_context=application_context,
        contexts=tuple(contexts),
        maximum_length=maximum_length,
        roles=tuple(roles),
    )


def _parse_role(value: bytes) -> RoleSelection:
    length = int.from_bytes(value[:2], "big")
    if len(value) != length + 4:
        raise ProtocolViolation("a role selection item has a wrong length")
    return RoleSelection(
        sop_class_uid=_decode_text(value[2 : 2 + length]), scu=bool(value[-2]), scp=bool(value[-1])
    )


def _encode_item(kind: int, data: bytes) -> bytes:
    return ITEM.pack(kind, len(data)) + data


def encode_associate_accept(
    request: AssociateRequest,
    contexts: Sequence[AnsweredContext],
    maximum_length: int,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> bytes:
    """Encode an A-ASSOCIATE-AC with the answered contexts; all proposed roles are accepted."""
    user = _encode_item(0x51, struct.pack(">I", maximum_length)) + _encode_item(
        0x52, implementation_class_uid.encode()
    )
    for role in request.roles:
        uid = role.sop_class_uid.encode()
        user += _encode_item(0x54, struct.pack(">H", len(uid)) + uid + bytes((role.scu, role.scp)))
    user += _encode_item(0x55, implementation_version_name.encode())
    body = struct.pack(">HH", 1, 0) + request.head[4:] + _encode_item(0x10, APPLICATION_CONTEXT)
    for context in contexts:
        answer = bytes((context.identifier, 0, context.result, 0))
        body += _encode_item(0x21, answer + _encode_item(0x40, context.transfer_syntax.encode()))
    body += _encode_item(0x50, user)
    return HEADER.pack(A_ASSOCIATE_AC, len(body)) + body


def encode_associate_request(
    called_ae: str,
    calling_ae: str,
    contexts: Sequence[ProposedContext],
    maximum_length: int,
    implementation_class_uid: str,
    implementation_version_name: str,
) -> bytes:
    """Encode an A-ASSOCIATE-RQ without role selections."""
    body = struct.pack(
        ">H2x16s16s32x", 1, called_ae.encode("ascii").ljust(16), calling_ae.encode("ascii").ljust(16)
    ) + _encode_item(0x10, APPLICATION_CONTEXT)
    for context in contexts:
        syntaxes = b"".join(_encode_item(0x40, uid.encode()) for uid in context.transfer_syntaxes)
        abstract = _encode_item(0x30, context.abstract_syntax.encode())
        body += _encode_item(0x20, bytes((context.identifier, 0, 0, 0)) + abstract + syntaxes)
    user = (
        _encode_item(0x51, struct.pack(">I", maximum_length))
        + _encode_item(0x52, implementation_class_uid.encode())
        + _encode_item(0x55, implementation_version_name.encode())
    )
    body += _encode_item(0x50, user)
    return HEADER.pack(A_ASSOCIATE_RQ, len(body)) + body


def parse_associate_accept(data: bytes) -> AssociateAccept:
    """Read the variable part of an A-ASSOCIATE-AC.

    Raises:
        ProtocolViolation: its structure is not that of PS3.8 section 9.3.3.
    """
    contexts: list[AnsweredContext] = []
    maximum_length = DEFAULT_LENGTH
    for kind, item in _split_items(data[HEAD_LENGTH:]):
        if kind == 0x21 and len(item) >= 4:
            # The transfer syntax of a refused context has no meaning, and some peers leave it out.
            syntaxes = [_decode_text(value) for sub, value in _split_items(item[4:]) if sub == 0x40]
            contexts.append(
                AnsweredContext(
                    identifier=item[0], result=item[2], transfer_syntax=syntaxes[0] if syntaxes else ""
                )
            )
        elif kind == 0x50:
            for sub, value in _split_items(item):
                if sub == 0x51 and len(value) == 4:
                    maximum_length = int.from_bytes(value, "big")
    return AssociateAccept(contexts=tuple(contexts), maximum_length=maximum_length)


def encode_reject(result: int, source: int, reason: int) -> bytes:
    """Encode an A-ASSOCIATE-RJ (PS3.8 table 9-21)."""
    return HEADER.pack(A_ASSOCIATE_RJ, 4) + bytes((0, result, source, reason))


def encode_data(context_id: int, data: bytes | memoryview, *, command: bool, last: bool) -> bytes:
    """Encode a P-DATA-TF with one presentation data value (PS3.8 section 9.3.5 and annex E)."""
    control = (1 if command else 0) | (2 if last else 0)
    return HEADER.pack(P_DATA_TF, len(data) + 6) + PDV.pack(len(data) + 2, context_id, control) + bytes(data)


def split_data(data: memoryview, contexts: Container[int]) -> list[tuple[int, int, memoryview]]:
    """The presentation data values of a P-DATA-TF: context identifier, message control header, fragment.

    Raises:
        ProtocolViolation: its structure is not that of PS3.8 section 9.3.5, or a context is not in ``contexts``.
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
            raise ProtocolViolation("the peer used a presentation context that was not accepted")
        values.append((identifier, control, data[position + PDV.size : end]))
        position = end
    return values
