"""UIDs that are the same on both sides of the walls, and the walk over encoded elements."""

from __future__ import annotations

import struct

import pytest

import inference.reading.forms
import sr_writer.uids
from handlers.dimse.commands import C_ECHO_RQ, Command, decode_command, encode_command
from handlers.encoding import uids
from handlers.encoding.elements import walk
from handlers.encoding.uids import EXPLICIT_BIG, EXPLICIT_LITTLE, IMPLICIT_LITTLE, is_uid
from handlers.errors import ProtocolViolation, ScanError


def test_implementation_is_named_alike_by_associations_and_results() -> None:
    named = (uids.IMPLEMENTATION_CLASS_UID, uids.IMPLEMENTATION_VERSION_NAME)
    assert named == (sr_writer.uids.IMPLEMENTATION_CLASS_UID, sr_writer.uids.IMPLEMENTATION_VERSION_NAME)


def test_uids_have_one_form_for_receivers_and_readers() -> None:
    assert uids.UID_FORM.pattern == inference.reading.forms.UID_FORM.pattern


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.840.10008.1.2", True),
        ("1.02.3", True),
        ("9" * 64, True),
        ("9" * 65, False),
        ("", False),
        (None, False),
        (".1", False),
        ("..", False),
        ("1.2/3", False),
        ("1.2\n", False),
        ("1.2\0", False),
    ],
)
def test_form_of_a_uid(text: str | None, expected: bool) -> None:
    assert is_uid(text) is expected


def explicit(order: str, tag: tuple[int, int], vr: bytes, value: bytes) -> bytes:
    return struct.pack(f"{order}HH2sH", *tag, vr, len(value)) + value


@pytest.mark.parametrize(("syntax", "order"), [(EXPLICIT_LITTLE, "<"), (EXPLICIT_BIG, ">")])
def test_elements_are_walked_up_to_the_last_wanted_one(syntax: str, order: str) -> None:
    data = explicit(order, (8, 0x60), b"CS", b"CT") + explicit(order, (0x10, 0x20), b"LO", b"A ")
    broken = struct.pack(f"{order}HH2sH", 0x7FE0, 0x10, b"CS", 500)
    assert [(tag, vr, bytes(value or b"")) for tag, vr, value in walk(data + broken, syntax, 0x00100020)] == [
        (0x00080060, b"CS", b"CT"),
        (0x00100020, b"LO", b"A "),
    ]
    with pytest.raises(ScanError, match="longer than the dataset"):
        list(walk(data + broken, syntax))


def test_value_of_undefined_length_is_passed_over() -> None:
    sequence = struct.pack("<HHI", 8, 0x1111, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    ends = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    after = struct.pack("<HHI", 0x10, 0x20, 2) + b"A "
    found = [(tag, value) for tag, _, value in walk(sequence + item + ends + after, IMPLICIT_LITTLE)]
    assert found == [(0x00081111, None), (0x00100020, memoryview(b"A "))]


def test_command_survives_encoding() -> None:
    command = Command(command_field=C_ECHO_RQ, message_id=7, affected_sop_class_uid="1.2.840.10008.1.1")
    assert decode_command(encode_command(command)) == command


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<HHI", 0, 0x100, 2),
        struct.pack("<HHIH", 0, 0x100, 4, 0x30),
        struct.pack("<HHII", 0, 0x100, 4, 0x30),
        struct.pack("<HHIH", 8, 0x100, 2, 0x30),
        struct.pack("<HHI", 0, 0x110, 0xFFFFFFFF),
        struct.pack("<HHI", 0, 0x110, 0xFFFFFFFF) + struct.pack("<HHI", 0xFFFE, 0xE0DD, 0),
    ],
    ids=["empty", "no value", "cut off", "long number", "other group", "undefined", "sequence"],
)
def test_bytes_that_are_no_command_are_a_violation(data: bytes) -> None:
    with pytest.raises(ProtocolViolation):
        decode_command(data)
