"""The audit trail names who did what, and no patient."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

from handlers.guesses import LONGEST_SECONDS, WAITING, Guesses
from handlers.settings import Source
from tests.handlers.conftest import StartReceiver, write_object
from tests.peers.dcmtk import storescu
from tests.peers.programs import program
from tests.peers.waiting import wait_until


def messages(folder: Path) -> list[Element]:
    return [fromstring(line) for line in (folder / "audit.log").read_text().splitlines()]


def codes(message: Element) -> list[str]:
    head = message.find("EventIdentification")
    assert head is not None
    return [child.attrib["csd-code"] for child in head]


def test_received_instances_and_denied_associations_are_recorded(
    start_receiver: StartReceiver, tmp_path: Path
) -> None:
    receiver = start_receiver(audit=tmp_path / "audit")
    first = write_object(tmp_path / "1.dcm")
    write_object(tmp_path / "2.dcm", StudyInstanceUID=first.StudyInstanceUID)
    storescu(receiver.port, tmp_path / "1.dcm", tmp_path / "2.dcm")
    subprocess.run(
        [program("echoscu"), "-aec", "WRONG", "127.0.0.1", str(receiver.port)],
        capture_output=True,
        timeout=30,
    )
    wait_until(lambda: len(messages(tmp_path / "audit")) == 2, 10, "both messages are there")
    received, denied = messages(tmp_path / "audit")
    assert codes(received) == ["110104"]
    study = received.find("ParticipantObjectIdentification")
    assert study is not None and study.attrib["ParticipantObjectID"] == first.StudyInstanceUID
    counted = received.find(".//SOPClass")
    assert counted is not None and counted.attrib["NumberOfInstances"] == "2"
    assert codes(denied) == ["110113", "110126"]
    participant = denied.find("ActiveParticipant")
    assert participant is not None and participant.attrib["NetworkAccessPointID"] == "127.0.0.1"
    assert "anary" not in (tmp_path / "audit" / "audit.log").read_text()


def test_guesses_wait_longer_and_longer() -> None:
    guesses = Guesses()
    pauses = [guesses.pause("10.0.0.1") for _ in range(12)]
    assert pauses[0] == 0
    assert pauses[1:] == sorted(pauses[1:])
    assert pauses[-1] == LONGEST_SECONDS
    assert guesses.pause("10.0.0.2") == 0


def test_guesses_at_once_do_not_fill_the_places() -> None:
    guesses, stopping = Guesses(), threading.Event()
    for _ in range(10):
        guesses.pause("10.0.0.1")
    answers: list[bool] = []
    threads = [
        threading.Thread(target=lambda: answers.append(guesses.hold("10.0.0.1", stopping)))
        for _ in range(WAITING + 5)
    ]
    for thread in threads:
        thread.start()
    wait_until(lambda: answers == [False] * 5, 2, "those that are too many are told at once")
    stopping.set()
    for thread in threads:
        thread.join(5)
    assert answers.count(True) == WAITING


def test_guessing_peer_holds_up_nobody(start_receiver: StartReceiver, tmp_path: Path) -> None:
    receiver = start_receiver(
        allow_unknown=False, sources=(Source(name="ct", ae_title="MODALITY", hosts=("127.0.0.1",)),)
    )
    wrong = [program("echoscu"), "-aet", "GUESS", "-aec", "OVERREAD", "127.0.0.1", str(receiver.port)]
    guessing = [subprocess.Popen(wrong, stderr=subprocess.DEVNULL) for _ in range(8)]
    write_object(tmp_path / "1.dcm")
    started = time.monotonic()
    storescu(receiver.port, tmp_path / "1.dcm")
    assert time.monotonic() - started < 10
    assert all(process.wait(60) != 0 for process in guessing)


def test_source_has_only_as_many_associations_as_it_may(start_receiver: StartReceiver) -> None:
    from pynetdicom import AE

    receiver = start_receiver(
        sources=(Source(name="ct", ae_title="CT", maximum_associations=2), Source(name="mr", ae_title="MR"))
    )

    def associate(title: str):
        entity = AE(ae_title=title)
        entity.add_requested_context("1.2.840.10008.1.1")
        return entity.associate("127.0.0.1", receiver.port, ae_title="OVERREAD")

    first, second, third, other = (associate(title) for title in ("CT", "CT", "CT", "MR"))
    assert first.is_established and second.is_established and other.is_established
    assert third.is_rejected
    first.release()
    wait_until(lambda: associate("CT").is_established, 10, "a place is free again")
    second.release()
    other.release()
