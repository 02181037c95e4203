"""Taking instances in without an association: bytes and values in, a verdict out."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from db.index import Index
from db.records import StoreVerdict
from handlers.audit.trail import AuditTrail
from handlers.encoding.uids import EXPLICIT_LITTLE
from handlers.peer import Peer
from handlers.settings import ReceiverSettings
from handlers.spool.files import make_folders
from handlers.spool.intake import Announced, Cause, Intake, Refused
from tests.databases import migrated
from tests.peers.failing import failing_once
from tests.peers.spool import filled

CT = "1.2.840.10008.5.1.4.1.1.2"
ANNOUNCED = Announced(sop_class_uid=CT, sop_instance_uid="1.2.3.4", transfer_syntax_uid=EXPLICIT_LITTLE)
PEER = Peer(calling_ae="WEB", called_ae="OVERREAD", address="10.0.0.7", association="request-1")


def dataset(instance: str = "1.2.3.4", study: str = "1.2.3.5", patient: str = "A") -> bytes:
    elements = (
        (0x0008, 0x0016, b"UI", CT),
        (0x0008, 0x0018, b"UI", instance),
        (0x0010, 0x0020, b"LO", patient),
        (0x0020, 0x000D, b"UI", study),
        (0x0020, 0x000E, b"UI", "1.2.3.6"),
    )
    return b"".join(
        struct.pack("<HH2sH", group, element, vr, len(value) + len(value) % 2)
        + value.encode()
        + b"\0" * (len(value) % 2)
        for group, element, vr, value in elements
    )


def fragments(data: bytes) -> Iterator[memoryview]:
    """Fragments that are gone once the next one is asked for."""
    for start in range(0, len(data), 16):
        fragment = memoryview(bytearray(data[start : start + 16]))
        yield fragment
        fragment.release()


@pytest.fixture
def intake(tmp_path: Path) -> Iterator[Intake]:
    database = migrated(tmp_path / "test.db")
    settings = ReceiverSettings(ae_title="OVERREAD", host="", port=0, spool=tmp_path / "spool")
    make_folders(settings.spool)
    (tmp_path / "run").mkdir()
    made = Intake(database, settings, tmp_path / "run", AuditTrail(None))
    yield made
    made.close()
    database.close()


def test_instance_is_in_spool_and_index_with_the_peer_that_brought_it(intake: Intake, tmp_path: Path) -> None:
    assert intake.take(ANNOUNCED, fragments(dataset()), PEER) is StoreVerdict.STORED
    stored = intake.index.find_instance("1.2.3.4")
    assert stored is not None
    assert (tmp_path / stored.path).read_bytes().endswith(dataset())
    assert (stored.calling_ae, stored.called_ae, stored.peer_address) == ("WEB", "OVERREAD", "10.0.0.7")
    assert stored.association == "request-1"
    intake.association_ended(PEER, released=True)
    (progress,) = intake.index.receiving()
    assert progress.released


def test_verdicts_of_what_is_there_already(intake: Intake, tmp_path: Path) -> None:
    verdicts = [
        intake.take(ANNOUNCED, fragments(dataset(patient=patient)), PEER) for patient in ("A", "A", "B")
    ]
    assert verdicts == [StoreVerdict.STORED, StoreVerdict.DUPLICATE, StoreVerdict.CONFLICT]
    assert len(filled(tmp_path / "spool")) == 2


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (dataset(instance="1.2.3.99"), Cause.DOES_NOT_MATCH),
        (dataset(study=".."), Cause.DOES_NOT_MATCH),
        (dataset()[:-3], Cause.NOT_UNDERSTOOD),
        (b"", Cause.DOES_NOT_MATCH),
    ],
)
def test_refused_instance_leaves_nothing(intake: Intake, tmp_path: Path, data: bytes, cause: Cause) -> None:
    verdict = intake.take(ANNOUNCED, fragments(data), PEER)
    assert isinstance(verdict, Refused)
    assert verdict.cause is cause
    assert filled(tmp_path / "spool") == []


def test_index_that_is_away_is_a_matter_of_resources(
    intake: Intake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake.index, "record", failing_once(intake.index.record))
    verdict = intake.take(ANNOUNCED, fragments(dataset()), PEER)
    assert isinstance(verdict, Refused)
    assert verdict.cause is Cause.OUT_OF_RESOURCES
    assert filled(tmp_path / "spool") == []
    assert intake.take(ANNOUNCED, fragments(dataset()), PEER) is StoreVerdict.STORED


def test_fault_of_whoever_brings_the_bytes_passes_through_and_leaves_nothing(
    intake: Intake, tmp_path: Path
) -> None:
    class Gone(Exception):
        pass

    def broken_off() -> Iterator[memoryview]:
        yield memoryview(dataset()[:20])
        raise Gone

    with pytest.raises(Gone):
        intake.take(ANNOUNCED, broken_off(), PEER)
    assert filled(tmp_path / "spool") == []
    assert Index(intake.index.database).find_instance("1.2.3.4") is None
