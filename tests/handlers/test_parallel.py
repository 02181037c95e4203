"""Sending over several associations: each file has one result, whatever the peer grants."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from pydicom.uid import MRImageStorage
from pynetdicom.events import Event

from handlers.sending.association import Timeouts
from handlers.sending.parallel import ParallelSender
from handlers.sending.sender import FileToSend, SendResult
from handlers.settings import Destination
from tests.handlers.conftest import write_object
from tests.peers.dcmtk import Storescp
from tests.peers.files import file_to_send
from tests.peers.scripted import TITLE, in_turn, instance_of, scripted_pacs
from tests.peers.waiting import free_port, wait_until

SECONDS = 20.0


class Sending:
    """A sender whose results are gathered."""

    def __init__(self, port: int, ae_title: str = TITLE, associations: int = 2) -> None:
        destination = Destination(
            name="pacs", ae_title=ae_title, host="127.0.0.1", port=port, associations=associations
        )
        self.faults: list[Exception] = []
        timeouts = Timeouts(connection=10.0, acse=10.0, dimse=10.0, network=10.0)
        self.sender = ParallelSender(destination, "ME", lambda: None, self._fault, timeouts)
        self.results: list[SendResult] = []

    def _fault(self, error: Exception) -> str:
        self.faults.append(error)
        return "a fault"

    def wait_for(self, count: int) -> list[SendResult]:
        """The results, as soon as there are so many since the beginning."""

        def there() -> bool:
            self.results += self.sender.take_results()
            return len(self.results) >= count

        wait_until(there, SECONDS, f"{count} results are there")
        assert len(self.results) == count
        return self.results


@contextmanager
def sending(port: int, ae_title: str = TITLE, associations: int = 2) -> Iterator[Sending]:
    running = Sending(port, ae_title, associations)
    try:
        yield running
    finally:
        running.sender.close()


@pytest.fixture
def idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.sending.parallel.IDLE_SECONDS", 60.0)


def written(folder: Path, count: int, sop_class: str | None = None) -> list[FileToSend]:
    files: list[FileToSend] = []
    for number in range(count):
        path = folder / f"{len(list(folder.iterdir()))}-{number}.dcm"
        dataset = write_object(path) if sop_class is None else write_object(path, sop_class)
        files.append(file_to_send(path, dataset))
    return files


def test_two_associations_send_at_the_same_time(tmp_path: Path) -> None:
    both = threading.Barrier(2)

    def answer(_: Event) -> int:
        both.wait(SECONDS)
        return 0x0000

    files = written(tmp_path, 6)
    with scripted_pacs(answer) as pacs, sending(pacs.port) as running:
        running.sender.put(files)
        assert all(result.delivered for result in running.wait_for(6))
        assert len(pacs.accepted) == 2
    assert sorted(pacs.received) == sorted(f.sop_instance_uid for f in files)


def test_report_and_overlay_need_one_association(tmp_path: Path) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        files = written(tmp_path, 2)
        running.sender.put(files)
        running.wait_for(2)
        assert len(pacs.accepted) == 1
        assert pacs.received == [f.sop_instance_uid for f in files]


def test_peer_that_rejects_a_second_association_gets_all_over_the_first(tmp_path: Path) -> None:
    first, more = written(tmp_path, 1), written(tmp_path, 8)
    taken, going_on = threading.Event(), threading.Event()

    def answer(event: Event) -> int:
        if instance_of(event) == first[0].sop_instance_uid:
            taken.set()
            assert going_on.wait(SECONDS)
        return 0x0000

    with scripted_pacs(answer, maximum_associations=1) as pacs, sending(pacs.port) as running:
        running.sender.put(first)
        assert taken.wait(SECONDS)
        running.sender.put(more)
        wait_until(lambda: running.sender._refusals == 1, SECONDS, "the second one is rejected")
        going_on.set()
        assert all(result.delivered for result in running.wait_for(9))
        assert running.sender._refusals == 1
        assert len(pacs.accepted) == 1


def test_peer_that_lets_a_second_association_wait_gets_all_over_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("handlers.sending.parallel.FURTHER_SECONDS", 0.2)
    folder = tmp_path / "files"
    folder.mkdir()
    with Storescp(tmp_path / "pacs", "PACS") as pacs, sending(pacs.port, "PACS") as running:
        running.sender.put(written(folder, 40))
        assert all(result.delivered for result in running.wait_for(40))
        assert len(pacs.files()) == 40
        running.sender.put(written(folder, 3))
        assert all(result.delivered for result in running.wait_for(43))


def test_idle_association_is_used_again(tmp_path: Path, idle_for_long: None) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        for number in range(1, 4):
            running.sender.put(written(tmp_path, 1))
            running.wait_for(number)
        assert len(pacs.accepted) == 1


def test_idle_association_is_released_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("handlers.sending.parallel.IDLE_SECONDS", 0.1)
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        running.sender.put(written(tmp_path, 1))
        running.wait_for(1)
        wait_until(lambda: len(pacs.released) == 1, SECONDS, "the association is released")


def test_idle_association_is_released_when_room_is_needed(tmp_path: Path, idle_for_long: None) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        running.sender.put(written(tmp_path, 1))
        running.wait_for(1)
        running.sender.release_idle()
        assert running.sender.associations == 0
        wait_until(lambda: len(pacs.released) == 1, SECONDS, "the association is released")
        running.sender.put(written(tmp_path, 1))
        assert running.wait_for(2)[1].delivered


@pytest.mark.parametrize("how", ["release", "abort"])
def test_idle_association_that_the_peer_ends_is_no_failure(
    tmp_path: Path, idle_for_long: None, how: str
) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        running.sender.put(written(tmp_path, 1))
        running.wait_for(1)
        (idle,) = pacs.accepted
        if how == "abort":
            idle.abort(block=False)
            wait_until(lambda: not idle.is_established, SECONDS, "the peer has aborted")
        else:
            # It ends when we answer, which we do when we look at the association again.
            threading.Thread(target=idle.release, daemon=True).start()
        running.sender.put(written(tmp_path, 1))
        assert [r.delivered for r in running.wait_for(2)] == [True, True]
        assert len(set(pacs.received)) == 2


def test_idle_association_that_breaks_when_it_is_used_again_is_no_failure(
    tmp_path: Path, idle_for_long: None
) -> None:
    first, second = written(tmp_path, 1), written(tmp_path, 1)
    tries: list[str] = []

    def answer(event: Event) -> int:
        tries.append(instance_of(event))
        if tries.count(second[0].sop_instance_uid) == 1:
            event.assoc.abort(block=False)
        return 0x0000

    with scripted_pacs(answer) as pacs, sending(pacs.port) as running:
        running.sender.put(first)
        running.wait_for(1)
        running.sender.put(second)
        assert [r.delivered for r in running.wait_for(2)] == [True, True]
        assert len(pacs.accepted) == 2


def test_class_that_the_association_did_not_offer_gets_another_one(
    tmp_path: Path, idle_for_long: None
) -> None:
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port) as running:
        running.sender.put(written(tmp_path, 1))
        running.wait_for(1)
        running.sender.put(written(tmp_path, 1, MRImageStorage))
        running.wait_for(2)
        running.sender.put(written(tmp_path, 1))
        assert all(result.delivered for result in running.wait_for(3))
        assert len(pacs.accepted) == 2


def test_nobody_there_is_transient_for_all_that_wait(tmp_path: Path) -> None:
    with sending(free_port()) as running:
        running.sender.put(written(tmp_path, 3))
        found = [(r.delivered, r.transient, r.reached) for r in running.wait_for(3)]
    assert found == [(False, True, False)] * 3


def test_class_that_the_peer_does_not_take_is_permanent(tmp_path: Path) -> None:
    with (
        scripted_pacs(in_turn(0x0000), sop_classes=[MRImageStorage]) as pacs,
        sending(pacs.port) as running,
    ):
        running.sender.put(written(tmp_path, 2))
        found = [(r.delivered, r.transient, r.reached) for r in running.wait_for(2)]
        assert found == [(False, False, True)] * 2
        running.sender.put(written(tmp_path, 1, MRImageStorage))
        assert running.wait_for(3)[2].delivered


def test_object_that_makes_the_peer_abort_costs_its_own_association(tmp_path: Path) -> None:
    files = written(tmp_path, 6)

    def answer(event: Event) -> int:
        if instance_of(event) == files[1].sop_instance_uid:
            event.assoc.abort(block=False)
        return 0x0000

    with scripted_pacs(answer) as pacs, sending(pacs.port, associations=1) as running:
        running.sender.put(files)
        results = {r.file.sop_instance_uid: r for r in running.wait_for(6)}
    assert [results[f.sop_instance_uid].delivered for f in files] == [True, False, True, True, True, True]
    assert results[files[1].sop_instance_uid].transient


def test_peer_that_aborts_again_and_again_is_left_alone(tmp_path: Path) -> None:
    def answer(event: Event) -> int:
        event.assoc.abort(block=False)
        return 0x0000

    with scripted_pacs(answer) as pacs, sending(pacs.port, associations=1) as running:
        running.sender.put(written(tmp_path, 6))
        found = [(r.delivered, r.transient, r.reached) for r in running.wait_for(6)]
        assert found == [(False, True, False)] * 6
        assert len(pacs.received) == 2


def test_file_that_is_gone_or_is_none_costs_no_association(tmp_path: Path) -> None:
    files = written(tmp_path, 4)
    files[0].path.unlink()
    files[1].path.write_bytes(b"no object")
    files[2] = replace(files[2], transfer_syntax_uid="1.2.840.10008.1.2")
    with scripted_pacs(in_turn(0x0000)) as pacs, sending(pacs.port, associations=1) as running:
        running.sender.put(files)
        found = [(r.delivered, r.transient, r.reached) for r in running.wait_for(4)]
        assert found == [(False, True, True), (False, False, True), (False, False, True), (True, False, True)]
        assert len(pacs.accepted) == 1


def test_what_is_being_sent_is_finished_at_the_end_and_nothing_else_begun(tmp_path: Path) -> None:
    taken, going_on = threading.Event(), threading.Event()

    def answer(_: Event) -> int:
        taken.set()
        assert going_on.wait(SECONDS)
        return 0x0000

    files = written(tmp_path, 2)
    with scripted_pacs(answer) as pacs, sending(pacs.port) as running:
        running.sender.put(files)
        assert taken.wait(SECONDS)
        closing = threading.Thread(target=running.sender.close)
        closing.start()
        wait_until(lambda: running.sender._stopping, SECONDS, "the sender is told to end")
        going_on.set()
        closing.join()
        (result,) = running.wait_for(1)
        assert result.delivered
        assert pacs.received == [files[0].sop_instance_uid]
        assert not running.faults
