"""A receiver as both sides of storage commitment, with pynetdicom as the peer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from pydicom import Dataset
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.presentation import build_role

from db.commitment import Commitments, OwedReports
from db.records import Reference
from handlers.dimse.commitment import (
    CommitmentError,
    Report,
    decode_dataset,
    read_report,
    write_report,
    write_request,
)
from handlers.dimse.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from handlers.encoding.uids import EXPLICIT_LITTLE
from handlers.settings import Destination
from tests.db.test_commitment import asked, sent, states
from tests.handlers.conftest import Receiver, StartReceiver

IMAGE = Reference(sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid="1.2.3")
OTHER = Reference(sop_class_uid="1.2.840.10008.5.1.4.1.1.2", sop_instance_uid="1.2.4")
PACS = Destination(name="pacs", ae_title="PACS", host="127.0.0.1", port=104)


@pytest.fixture
def receiver(start_receiver: StartReceiver) -> Receiver:
    return start_receiver(destinations=(PACS,))


@contextmanager
def associated(receiver: Receiver, ae_title: str = "PACS", *, as_scp: bool = False) -> Iterator[Association]:
    entity = AE(ae_title=ae_title)
    entity.add_requested_context(STORAGE_COMMITMENT)
    association = entity.associate(
        "127.0.0.1",
        receiver.port,
        ae_title="OVERREAD",
        ext_neg=[build_role(STORAGE_COMMITMENT, scp_role=True)] if as_scp else [],
    )
    assert association.is_established
    yield association
    association.release()


def ask(receiver: Receiver, dataset: Dataset, ae_title: str = "PACS", action: int = 1) -> Dataset:
    with associated(receiver, ae_title) as association:
        response, _ = association.send_n_action(
            dataset, action, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    return response


def report(receiver: Receiver, content: Report, ae_title: str = "PACS") -> int:
    kind, dataset = write_report(content, ae_title)
    with associated(receiver, ae_title, as_scp=True) as association:
        response, _ = association.send_n_event_report(
            dataset, kind, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
        )
    return int(response.Status)


def test_request_of_a_peer_is_recorded_before_it_is_answered(receiver: Receiver) -> None:
    assert ask(receiver, write_request("1.2.9", [IMAGE, OTHER])).Status == 0
    owed = OwedReports(receiver.database).claim("pacs", 60)
    assert owed is not None
    assert (owed.transaction_uid, owed.references) == ("1.2.9", (IMAGE, OTHER))


def test_peer_that_no_destination_names_is_told_so(receiver: Receiver) -> None:
    response = ask(receiver, write_request("1.2.9", [IMAGE]), ae_title="STRANGER")
    assert (response.Status, response.ErrorComment) == (
        0x0124,
        "no [[destination]] says where this AE title listens",
    )


def test_request_that_makes_no_sense_is_refused(receiver: Receiver) -> None:
    empty, nothing = write_request("1.2.9", []), write_request("1.2.9", [IMAGE])
    del nothing.TransactionUID
    path = write_request("1.2.9", [IMAGE])
    path.ReferencedSOPSequence[0].ReferencedSOPInstanceUID = "1.2.3"
    path.ReferencedSOPSequence[0]["ReferencedSOPInstanceUID"]._value = "../../passwd"
    assert ask(receiver, empty).Status == 0x0115
    assert ask(receiver, path).Status == 0x0115
    assert ask(receiver, nothing).Status == 0x0115
    assert ask(receiver, write_request("1.2.9", [IMAGE]), action=2).Status == 0x0123
    assert OwedReports(receiver.database).claim("pacs", 60) is None


def test_report_of_a_destination_commits_the_results(receiver: Receiver) -> None:
    sent(receiver.database)
    request = asked(receiver.database)
    content = Report(transaction_uid=request.transaction_uid, committed=request.references)
    assert report(receiver, content, ae_title="IMPOSTOR") == 0x0115
    assert states(receiver.database) == ["sent", "sent"]
    assert report(receiver, content) == 0
    assert states(receiver.database) == ["committed", "committed"]


def test_report_with_failures_sends_those_again(receiver: Receiver) -> None:
    sent(receiver.database)
    request = asked(receiver.database)
    good, bad = request.references
    content = Report(transaction_uid=request.transaction_uid, committed=(good,), failed={bad: 0x0112})
    assert report(receiver, content) == 0
    assert states(receiver.database) == ["committed", "pending"]


def test_report_of_an_unknown_transaction_is_refused(receiver: Receiver) -> None:
    sent(receiver.database)
    assert report(receiver, Report(transaction_uid="1.2.3.4.5", committed=(IMAGE,))) == 0x0115
    assert Commitments(receiver.database).destination_of("1.2.3.4.5") is None


def test_report_survives_writing_and_reading() -> None:
    for content in (
        Report(transaction_uid="1.2.9", committed=(IMAGE,)),
        Report(transaction_uid="1.2.9", committed=(), failed={OTHER: 0x0112}),
        Report(transaction_uid="1.2.9", committed=(IMAGE,), failed={OTHER: 0x0119}),
    ):
        kind, dataset = write_report(content, "OVERREAD")
        assert kind == (2 if content.failed else 1)
        assert read_report(dataset) == content


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00\x95\x11UI\xff\xff1.2",
        b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff" * 20,
        (b"\x08\x00\x99\x11SQ\x00\x00\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff") * 2000,
        b"\x08\x00",
    ],
    ids=["cut off", "nested items", "deep", "no element"],
)
def test_hostile_datasets_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(CommitmentError) as refused:
        decode_dataset(data, EXPLICIT_LITTLE)
    assert "1.2" not in str(refused.value)
