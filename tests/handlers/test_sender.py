"""The sender: a verdict for every file, whatever the peer does."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pydicom.uid import CTImageStorage, JPEGBaseline8Bit, generate_uid
from pynetdicom import AE, AllStoragePresentationContexts, evt, transport

from handlers.dimse.statuses import meaning
from handlers.dimse.uids import VERIFICATION
from handlers.encoding.uids import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from handlers.sending.association import Timeouts
from handlers.sending.sender import FileToSend, Sender, echo
from handlers.settings import Destination
from handlers.upper_layer import pdu
from handlers.upper_layer.connection import Connection
from tests.handlers.conftest import write_object
from tests.peers.dcmtk import Storescp
from tests.peers.files import file_to_send
from tests.peers.raw import item, read_pdu
from tests.peers.scripted import TITLE, instance_of, scripted_pacs
from tests.peers.waiting import free_port, wait_until

SHORT = Timeouts(connection=1.0, acse=1.0, dimse=1.0, network=1.0)


def destination(port: int, ae_title: str = "PACS") -> Destination:
    return Destination(name="pacs", ae_title=ae_title, host="127.0.0.1", port=port)


def objects(folder: Path, count: int) -> list[FileToSend]:
    files = []
    for number in range(count):
        path = folder / f"{number}.dcm"
        dataset = write_object(path)
        files.append(file_to_send(path, dataset))
    return files


@pytest.mark.parametrize(
    ("status", "delivered", "transient"),
    [
        (0x0000, True, False),
        (0x0111, True, False),
        (0xB000, True, False),
        (0xB006, True, False),
        (0xA700, False, True),
        (0xA7FF, False, True),
        (0x0110, False, True),
        (0xA900, False, False),
        (0xC000, False, False),
        (0xC211, False, False),
        (0x0122, False, False),
        (0x0124, False, False),
        (0xE123, False, False),
    ],
)
def test_status(status: int, delivered: bool, transient: bool) -> None:
    read = meaning(status)
    assert (read.delivered, read.transient) == (delivered, transient)
    assert f"{status:04X}" in read.text


def test_files_arrive_as_they_are_stored(tmp_path: Path) -> None:
    files = objects(tmp_path, 5)
    with Storescp(tmp_path / "pacs", "PACS", "+B") as pacs:
        results = list(Sender(destination(pacs.port), "ME").send(files))
        assert [r.delivered for r in results] == [True] * 5
        arrived = {str(dcmread(path).SOPInstanceUID): path.read_bytes() for path in pacs.files()}
    for file in files:
        assert arrived[file.sop_instance_uid][-200:] == file.path.read_bytes()[-200:]


def test_peer_that_takes_only_implicit_little_endian_gets_it(tmp_path: Path) -> None:
    with Storescp(tmp_path / "pacs", "PACS", "+xi") as pacs:
        (result,) = Sender(destination(pacs.port), "ME").send(objects(tmp_path, 1))
        assert result.delivered
        (path,) = pacs.files()
        assert dcmread(path).PatientID == "CANARY"


def test_transfer_syntax_that_the_peer_does_not_take_is_permanent(tmp_path: Path, real_data: Path) -> None:
    dataset = dcmread(real_data / "cxr" / "rsna_pa_jpeg_sc_class.dcm")
    file = FileToSend(
        path=real_data / "cxr" / "rsna_pa_jpeg_sc_class.dcm",
        sop_class_uid=str(dataset.SOPClassUID),
        sop_instance_uid=str(dataset.SOPInstanceUID),
        transfer_syntax_uid=str(JPEGBaseline8Bit),
    )
    with Storescp(tmp_path / "pacs", "PACS") as pacs:
        results = list(Sender(destination(pacs.port), "ME").send([file, *objects(tmp_path, 1)]))
    assert [(r.delivered, r.transient) for r in results] == [(False, False), (True, False)]


def test_class_that_the_peer_does_not_take_is_permanent_also_when_it_is_alone(tmp_path: Path) -> None:
    path = tmp_path / "private.dcm"
    private = generate_uid()
    dataset = write_object(path, private)
    file = file_to_send(path, dataset)
    with Storescp(tmp_path / "pacs", "PACS") as pacs:
        results = list(Sender(destination(pacs.port), "ME").send([file, *objects(tmp_path, 1)]))
        (alone,) = Sender(destination(pacs.port), "ME").send([file])
    assert [(r.delivered, r.transient) for r in results] == [(False, False), (True, False)]
    assert (alone.delivered, alone.transient) == (False, False)


def test_nobody_there_is_transient(tmp_path: Path) -> None:
    results = list(Sender(destination(free_port()), "ME", SHORT).send(objects(tmp_path, 3)))
    assert [(r.delivered, r.transient, r.status) for r in results] == [(False, True, None)] * 3
    assert "the connection is refused, or nothing is there" in results[0].reason


def test_rejection_that_is_there_before_its_thread_looks_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = transport.AssociationSocket.__init__

    def make(connection: transport.AssociationSocket, *arguments: Any, **keywords: Any) -> None:
        made(connection, *arguments, **keywords)
        ready = connection._ready.wait

        def late(timeout: float | None = None) -> bool:
            return ready(timeout) and wait_until(
                lambda: not connection._is_connected, 10, "the connection is closed"
            )

        monkeypatch.setattr(connection._ready, "wait", late)

    monkeypatch.setattr(transport.AssociationSocket, "__init__", make)
    with scripted_pacs(lambda _: 0x0000, require_calling_aet=["ANOTHER"]) as pacs:
        (result,) = Sender(destination(pacs.port, TITLE), "ME").send(objects(tmp_path, 1))
    assert (result.delivered, result.transient) == (False, False)
    assert "calling AE title not recognized" in result.reason


def test_mute_peer_is_given_up_in_time(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        (result,) = Sender(destination(port), "ME", SHORT).send(objects(tmp_path, 1))
        assert (result.delivered, result.transient) == (False, True)
        assert "no answer within 1 seconds" in result.reason
        assert not echo(destination(port), "ME", SHORT).ok


@contextmanager
def answering(answer: bytes) -> Iterator[int]:
    """A peer that answers an association request with these bytes and closes the connection; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                read_pdu(connection)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                read_pdu(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            thread.join()


def accept_of(*items: bytes) -> bytes:
    """An A-ASSOCIATE-AC with these items."""
    body = bytes(68) + b"".join(items)
    return struct.pack(">BxI", 2, len(body)) + body


CONTEXT = item(0x21, bytes((1, 0, 0, 0)) + item(0x40, b"1.2.840.10008.1.2.1"))


@pytest.mark.parametrize(
    ("answer", "transient", "reason"),
    [
        (b"", True, "the peer closed the connection"),
        (pdu.ABORT_BY_USER, True, "it aborted"),
        (pdu.encode_reject(1, 1, 7), False, "called AE title not recognized"),
        (pdu.encode_reject(2, 3, 2), True, "rejected for now: local limit exceeded"),
        (pdu.encode_reject(1, 9, 9), True, "rejected permanently: reason 9.9"),
        (struct.pack(">BxI", 3, 1) + b"!", True, "its answer is a PDU of type 03"),
        (struct.pack(">BxI", 2, 0x7FFFFFFF), True, "its answer is too long"),
        (struct.pack(">BxI", 4, 4) + b"data", True, "its answer is a PDU of type 04"),
        (accept_of(CONTEXT[:-3]), True, "longer than the PDU"),
        (accept_of(b"!"), True, "cut off"),
        (accept_of(), False, "does not accept the SOP class"),
        (accept_of(item(0x21, bytes((99, 0, 0, 0)))), False, "does not accept the SOP class"),
        (accept_of(CONTEXT), True, "the association was lost"),
        (accept_of(CONTEXT) + struct.pack(">BxI", 4, 6) + bytes(6), True, "the association was lost"),
        (accept_of(CONTEXT) + pdu.RELEASE_RQ, True, "the association was lost"),
    ],
)
def test_answer_of_any_kind_ends_with_a_reason(
    tmp_path: Path, answer: bytes, transient: bool, reason: str
) -> None:
    with answering(answer) as port:
        (result,) = Sender(destination(port), "ME", SHORT).send(objects(tmp_path, 1))
    assert (result.delivered, result.transient) == (False, transient)
    assert reason in result.reason


def test_small_object_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset that is written after its command waits for the peer's delayed acknowledgement, or wakes it twice."""
    written: list[int] = []
    send = Connection.send

    def noted(connection: Connection, data: bytes, deadline: float) -> None:
        written.append(data[0])
        send(connection, data, deadline)

    monkeypatch.setattr(Connection, "send", noted)
    with scripted_pacs(lambda _: 0x0000) as pacs:
        (result,) = Sender(destination(pacs.port, TITLE), "ME").send(objects(tmp_path, 1))
    assert result.delivered
    assert written == [pdu.A_ASSOCIATE_RQ, pdu.P_DATA_TF, pdu.A_RELEASE_RQ]


@pytest.mark.parametrize("length", [0, 1, 4096, 131_072])
def test_fragments_are_no_longer_than_the_peer_takes(tmp_path: Path, length: int) -> None:
    files = objects(tmp_path, 2)
    padded = write_object(files[0].path, SOPInstanceUID=files[0].sop_instance_uid, TextValue="x" * 300_000)
    assert padded.SOPInstanceUID == files[0].sop_instance_uid
    pdus: list[bytes] = []
    got: list[bytes] = []

    def store(event: evt.Event) -> int:
        got.append(event.encoded_dataset(include_meta=False))
        return 0x0000

    pacs = AE(ae_title="PACS")
    pacs.maximum_pdu_size = length
    pacs.supported_contexts = AllStoragePresentationContexts
    received = (evt.EVT_DATA_RECV, lambda event: pdus.append(event.data))
    server = pacs.start_server(
        ("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store), received]
    )
    assert server is not None
    try:
        results = list(Sender(destination(server.server_address[1]), "ME").send(files))
    finally:
        server.shutdown()
    assert all(r.delivered for r in results)
    assert all(file.path.read_bytes().endswith(data) for file, data in zip(files, got, strict=True))
    longest = max(len(data) - pdu.HEADER.size for data in pdus if data[0] == pdu.P_DATA_TF)
    assert longest <= (max(length, 256) if length else 131_072)


def test_object_that_makes_the_peer_abort_does_not_stop_the_others(tmp_path: Path) -> None:
    files = objects(tmp_path, 4)

    def store(event: evt.Event) -> int:
        if instance_of(event) == files[1].sop_instance_uid:
            event.assoc.abort(block=False)
        return 0x0000

    pacs = AE(ae_title="PACS")
    pacs.supported_contexts = AllStoragePresentationContexts
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        results = list(Sender(destination(server.server_address[1]), "ME").send(files))
    finally:
        server.shutdown()
    assert [r.delivered for r in results] == [True, False, True, True]
    assert results[1].transient


def test_more_classes_than_one_association_has_contexts_for(tmp_path: Path) -> None:
    classes = [str(c.abstract_syntax) for c in AllStoragePresentationContexts][:100]
    files = []
    for number, sop_class in enumerate(classes):
        path = tmp_path / f"{number}.dcm"
        dataset = write_object(path, sop_class)
        files.append(file_to_send(path, dataset))
    received: list[str] = []
    lock = threading.Lock()

    def store(event: evt.Event) -> int:
        with lock:
            received.append(instance_of(event))
        return 0x0000

    pacs = AE(ae_title="PACS")
    pacs.supported_contexts = AllStoragePresentationContexts
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, store)])
    assert server is not None
    try:
        results = list(Sender(destination(server.server_address[1]), "ME").send(files))
    finally:
        server.shutdown()
    assert all(r.delivered for r in results)
    assert received == [f.sop_instance_uid for f in files]
    assert CTImageStorage in classes


def test_peer_is_told_which_implementation_we_are() -> None:
    named: list[tuple[str, str]] = []

    def answer(event: evt.Event) -> int:
        requestor = event.assoc.requestor
        named.append((str(requestor.implementation_class_uid), str(requestor.implementation_version_name)))
        return 0x0000

    pacs = AE(ae_title="PACS")
    pacs.add_supported_context(VERIFICATION)
    server = pacs.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_ECHO, answer)])
    assert server is not None
    try:
        assert echo(destination(server.server_address[1]), "ME").ok
    finally:
        server.shutdown()
    assert named == [(IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME)]
