"""A DICOM peer by hand: PDUs byte by byte, in order or broken, over a socket."""

from __future__ import annotations

import socket
import struct

from handlers.dimse.commands import C_STORE_RQ, WITH_DATASET, Command, encode_command
from handlers.upper_layer import pdu

CT = "1.2.840.10008.5.1.4.1.1.2"
IMPLICIT = "1.2.840.10008.1.2"
EXPLICIT = "1.2.840.10008.1.2.1"
A_ABORT = 0x07
A_ASSOCIATE_AC = 0x02
A_ASSOCIATE_RJ = 0x03
P_DATA = 0x04


def item(kind: int, body: bytes) -> bytes:
    """An item or sub-item of an A-ASSOCIATE PDU."""
    return struct.pack(">BxH", kind, len(body)) + body


def associate_request(
    called: str = "OVERREAD", calling: str = "TEST", abstract: str = CT, syntax: str = EXPLICIT
) -> bytes:
    context = struct.pack(">B3x", 1) + item(0x30, abstract.encode()) + item(0x40, syntax.encode())
    user = item(0x51, struct.pack(">I", 16384)) + item(0x52, b"1.2.3")
    body = (
        struct.pack(">H2x16s16s32x", 1, called.ljust(16).encode(), calling.ljust(16).encode())
        + item(0x10, pdu.APPLICATION_CONTEXT)
        + item(0x20, context)
        + item(0x50, user)
    )
    return struct.pack(">BxI", 1, len(body)) + body


def read_pdu(connection: socket.socket) -> tuple[int, bytes]:
    """Type and body of the next PDU; type 0 where the peer has closed the connection."""
    head = b""
    while len(head) < 6:
        try:
            got = connection.recv(6 - len(head))
        except ConnectionResetError:
            return 0, b""
        if not got:
            return 0, b""
        head += got
    kind, length = struct.unpack(">BxI", head)
    body = b""
    while len(body) < length:
        body += connection.recv(length - len(body))
    return kind, body


def associated(connection: socket.socket, **request: str) -> None:
    """Associate; fails where the node does not accept."""
    connection.sendall(associate_request(**request))
    kind, _ = read_pdu(connection)
    assert kind == A_ASSOCIATE_AC


def store_command(sop_instance_uid: str = "1.2.3.4", sop_class: str = CT) -> bytes:
    """A C-STORE-RQ, whose dataset is to follow."""
    command = encode_command(
        Command(
            command_field=C_STORE_RQ,
            message_id=1,
            affected_sop_class_uid=sop_class,
            affected_sop_instance_uid=sop_instance_uid,
            priority=0,
            dataset_type=WITH_DATASET,
        )
    )
    return bytes(pdu.encode_data(1, command, command=True, last=True))


def reset(connection: socket.socket) -> None:
    """Close with RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


BROKEN = {
    "half a head": b"\x01\x00\x00",
    "half an associate request": associate_request()[:60],
    "huge associate request": struct.pack(">BxI", 1, 0x7FFFFFFF),
    "data before the association": struct.pack(">BxI", 4, 20) + bytes(20),
    "not DICOM": b"GET / HTTP/1.1\r\nHost: example\r\n\r\n",
    "item longer than the request": associate_request()[:76] + b"\x20\x00\xff\xff" + associate_request()[80:],
    "nothing": b"",
}
"""What no A-ASSOCIATE-RQ is, sent first."""

AFTER_ASSOCIATION = {
    "data longer than negotiated": struct.pack(">BxI", 4, 0x10000000),
    "empty data": struct.pack(">BxI", 4, 0),
    "value longer than its PDU": struct.pack(">BxI", 4, 10) + struct.pack(">IBB", 99, 1, 3) + bytes(4),
    "unknown context": struct.pack(">BxI", 4, 10) + struct.pack(">IBB", 6, 77, 3) + bytes(4),
    "unknown PDU": struct.pack(">BxI", 0x55, 4) + bytes(4),
    "command cut off": struct.pack(">BxI", 4, 9) + struct.pack(">IBB", 5, 1, 3) + bytes(3),
    "dataset without command": struct.pack(">BxI", 4, 10) + struct.pack(">IBB", 6, 1, 2) + bytes(4),
    "command twice in one dataset": store_command() + store_command(),
    "unknown command": bytes(
        pdu.encode_data(
            1, encode_command(Command(command_field=0x7777, message_id=1)), command=True, last=True
        )
    ),
    "second associate request": associate_request(),
    "endless command": bytes(pdu.encode_data(1, bytes(16000), command=True, last=False)) * 3,
    "half a dataset": store_command()
    + bytes(pdu.encode_data(1, b"\x08\x00\x05\x00CS\x0a\x00", command=False, last=False)),
    "half a data PDU": store_command() + struct.pack(">BxI", 4, 1000) + bytes(10),
}
"""What an associated peer must not send."""
