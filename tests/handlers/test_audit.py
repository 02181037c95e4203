"""The audit trail names who did what, and no patient."""

from __future__ import annotations

import os
import subprocess
import time
from base64 import b64decode
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree.ElementTree import Element, fromstring

import pytest

from handlers.audit import trail as audit
from handlers.audit.trail import AuditTrail
from handlers.settings import AuditSettings, Source
from tests.handlers.conftest import StartReceiver, write_object
from tests.handlers.test_acceptor import connected
from tests.peers.dcmtk import findscu, storescu
from tests.peers.programs import program
from tests.peers.raw import associate_request, read_pdu
from tests.peers.waiting import wait_until

ORDER = [
    "EventIdentification",
    "ActiveParticipant",
    "ActiveParticipant",
    "AuditSourceIdentification",
    "ParticipantObjectIdentification",
]


def messages(folder: Path) -> list[Element]:
    return [fromstring(line) for file in sorted(folder.glob("*")) for line in file.read_text().splitlines()]


def codes(message: Element) -> list[str]:
    head = message.find("EventIdentification")
    assert head is not None
    return [child.attrib["csd-code"] for child in head if child.tag != "EventOutcomeDescription"]


def kept_in(folder: Path, **settings: Any) -> AuditSettings:
    return AuditSettings(folder=folder / "audit", source="OVERREAD", **settings)


def text_of(folder: Path) -> str:
    return "".join(path.read_text() for path in (folder / "audit").iterdir())


def test_received_instances_and_denied_associations_are_recorded(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    receiver = start_receiver(audit=kept_in(tmp_path))
    first = write_object(tmp_path / "1.dcm")
    write_object(tmp_path / "2.dcm", StudyInstanceUID=first.StudyInstanceUID)
    storescu(receiver.port, tmp_path / "1.dcm", tmp_path / "2.dcm")
    wait_until(lambda: len(messages(tmp_path / "audit")) == 1, 30, "what was received is recorded")
    subprocess.run(
        [program("echoscu"), "-aec", "WRONG", "127.0.0.1", str(receiver.port)],
        capture_output=True,
        timeout=30,
    )
    wait_until(lambda: len(messages(tmp_path / "audit")) == 2, 30, "both messages are there")
    received, denied = messages(tmp_path / "audit")
    assert codes(received) == ["110104"]
    study = received.find("ParticipantObjectIdentification")
    assert study is not None and study.attrib["ParticipantObjectID"] == first.StudyInstanceUID
    counted = received.find(".//SOPClass")
    assert counted is not None and counted.attrib["NumberOfInstances"] == "2"
    assert codes(denied) == ["110113", "110126"]
    participant = denied.findall("ActiveParticipant")[1]
    assert participant.attrib["NetworkAccessPointID"] == "127.0.0.1"
    assert [child.tag for child in denied] == ORDER
    assert [child.tag for child in denied.findall("ParticipantObjectIdentification/*")] == [
        "ParticipantObjectIDTypeCode",
        "ParticipantObjectName",
        "ParticipantObjectDetail",
    ]
    assert denied.findtext(".//EventOutcomeDescription") == "called AE title not recognized"
    assert "canary" not in text_of(tmp_path).lower()


def test_patients_are_named_where_it_is_asked_for(start_receiver: StartReceiver, tmp_path: Path) -> None:
    receiver = start_receiver(audit=kept_in(tmp_path, patients=True))
    write_object(tmp_path / "1.dcm")
    storescu(receiver.port, tmp_path / "1.dcm")
    wait_until(lambda: messages(tmp_path / "audit"), 10, "the message is there")
    (received,) = messages(tmp_path / "audit")
    ids = [o.attrib["ParticipantObjectID"] for o in received.findall("ParticipantObjectIdentification")]
    assert ids[1:] == ["CANARY"]


@pytest.mark.parametrize("patients", [False, True])
def test_query_is_recorded_with_its_values_only_where_patients_are(
    start_receiver: StartReceiver, tmp_path: Path, patients: bool
) -> None:
    receiver = start_receiver(audit=kept_in(tmp_path, patients=patients))
    findscu(receiver.port, "STUDY", "PatientName=Canary*", "StudyInstanceUID")
    (query,) = messages(tmp_path / "audit")
    assert codes(query) == ["110112"]
    asked = query.find("ParticipantObjectIdentification")
    assert asked is not None
    dataset = b64decode(asked.findtext("ParticipantObjectQuery") or "")
    assert (b"Canary*" in dataset) == patients
    names = (asked.findtext("ParticipantObjectName") or "").split()
    assert ("PatientName" in names) != patients


def test_title_of_a_stranger_cannot_break_the_trail(start_receiver: StartReceiver, tmp_path: Path) -> None:
    receiver = start_receiver(audit=kept_in(tmp_path))
    with connected(receiver) as connection:
        connection.sendall(associate_request(called="OTHER", calling='<A>\x01\n"\x0b'))
        read_pdu(connection)
    (denied,) = messages(tmp_path / "audit")
    assert denied.findall("ActiveParticipant")[1].attrib["UserID"].startswith("<A>")


def test_every_day_has_a_file_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trail = AuditTrail(kept_in(tmp_path))
    for day in (1, 2):
        moment = datetime(2026, 1, day, 23, 59, tzinfo=UTC)
        monkeypatch.setattr(audit, "datetime", SimpleNamespace(now=lambda zone, at=moment: at))
        trail.started()
    trail.close()
    names = sorted(path.name for path in (tmp_path / "audit").iterdir())
    assert names == ["audit-2026-01-01.log", "audit-2026-01-02.log"]


def test_line_that_a_full_disk_cut_off_takes_no_other_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    trail = AuditTrail(kept_in(tmp_path))
    write = os.write
    trail.started()
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda file, data: write(file, data[:100]))
        trail.started()
    another = AuditTrail(kept_in(tmp_path))
    another.stopped()
    another.close()
    trail.close()
    assert "audit_not_written" in caplog.text
    (file,) = (tmp_path / "audit").iterdir()
    lines = file.read_bytes().splitlines()
    assert [line.endswith(b"</AuditMessage>") for line in lines] == [True, False, True]


def test_guessing_peer_holds_up_nobody(start_receiver: StartReceiver, tmp_path: Path) -> None:
    receiver = start_receiver(
        allow_unknown=False, sources=(Source(name="ct", ae_title="MODALITY", hosts=("127.0.0.1",)),)
    )
    wrong = [str(program("echoscu")), "-aet", "GUESS", "-aec", "OVERREAD", "127.0.0.1", str(receiver.port)]
    guessing = [subprocess.Popen(wrong, stderr=subprocess.DEVNULL) for _ in range(8)]
    write_object(tmp_path / "1.dcm")
    started = time.monotonic()
    storescu(receiver.port, tmp_path / "1.dcm")
    assert time.monotonic() - started < 10
    assert all(process.wait(60) != 0 for process in guessing)


def test_source_has_only_as_many_associations_as_it_may(start_receiver: StartReceiver) -> None:
    from pynetdicom import AE
    from pynetdicom.association import Association

    receiver = start_receiver(
        sources=(Source(name="ct", ae_title="CT", maximum_associations=2), Source(name="mr", ae_title="MR"))
    )

    def associate(title: str) -> Association:
        entity = AE(ae_title=title)
        entity.add_requested_context("1.2.840.10008.1.1")
        return entity.associate("127.0.0.1", receiver.port, ae_title="OVERREAD")

    first, second, other = (associate(title) for title in ("CT", "CT", "MR"))
    assert first.is_established and second.is_established and other.is_established
    third = subprocess.run(
        [program("echoscu"), "-aet", "CT", "-aec", "OVERREAD", "127.0.0.1", str(receiver.port)],
        capture_output=True,
        text=True,
    )
    assert "Local Limit Exceeded" in third.stderr
    first.release()
    wait_until(lambda: associate("CT").is_established, 10, "a place is free again")
    second.release()
    other.release()
