"""Requests over an association that we opened, and the encoded dataset of a stored file."""

from __future__ import annotations

import io
from typing import BinaryIO

from pydicom import dcmread
from pydicom.errors import InvalidDicomError

from handlers.dimse.commands import Command
from handlers.dimse.identifiers import encode_dataset
from handlers.dimse.messages import MessageExchange
from handlers.errors import ProtocolViolation, ScanError
from handlers.sending.requestor import RequestedAssociation
from handlers.spool.part10 import read_meta_information

META_BYTES = 65_536
"""File meta information is shorter."""


def encoded_dataset(opened: BinaryIO, stored_syntax: str, wanted_syntax: str) -> BinaryIO:
    """The encoded dataset of an open Part 10 file: its own bytes, unless the wanted transfer syntax is another one.

    Args:
        opened: the file, at its beginning.
        stored_syntax: the transfer syntax that the file is said to have.
        wanted_syntax: the same one, or for a native one another native one.

    Raises:
        OSError: the file cannot be read.
        InvalidDicomError, ScanError, ValueError, AttributeError: it cannot be parsed or encoded.
    """
    head = opened.read(META_BYTES)
    if head[128:132] != b"DICM":
        raise InvalidDicomError
    transfer_syntax, start = read_meta_information(memoryview(head))
    if transfer_syntax != stored_syntax:
        raise ScanError("the file has another transfer syntax than it is said to have")
    if wanted_syntax == transfer_syntax:
        opened.seek(start)
        return opened
    opened.seek(0)
    return io.BytesIO(encode_dataset(dcmread(opened), wanted_syntax))


def request(
    association: RequestedAssociation,
    context_id: int,
    command: Command,
    response_field: int,
    data: BinaryIO | None = None,
) -> int:
    """Send a request, with its dataset if it has one, and return the status of the response.

    Raises:
        OSError: the dataset cannot be read; part of it may have been sent.
        NetworkError: the association cannot go on.
    """
    exchange = MessageExchange(association)
    exchange.send(context_id, command, data)
    response = exchange.receive().command
    if (
        response.command_field != response_field
        or response.message_id_responded_to != command.message_id
        or response.status is None
    ):
        raise ProtocolViolation("the peer sent something else than its answer")
    return response.status
