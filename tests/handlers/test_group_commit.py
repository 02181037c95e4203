"""Which instances are committed together, and what happens to those whose files cannot be made safe."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from db.database import Database
from db.errors import Contended, DatabaseUnavailable
from db.index import Index
from db.records import NewInstance, StoreVerdict
from handlers.spool.files import Spool, file_head, make_folders
from handlers.spool.group_commit import GroupCommit
from tests.databases import migrated
from tests.db.conftest import new_instance
from tests.peers.failing import failing_once

SECONDS = 10.0


class File:
    """A file whose syncs wait for an event, or fail."""

    def __init__(self, *, held: threading.Event | None = None, fault: OSError | None = None) -> None:
        self.held = held
        self.fault = fault
        self.begun = threading.Event()
        self.synced = False

    def sync(self) -> None:
        self.begun.set()
        if self.held is not None:
            assert self.held.wait(SECONDS)
        if self.fault is not None:
            raise self.fault
        self.synced = True


class WatchedIndex(Index):
    """Says when rows are written and not yet committed, and which ones were written together."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.written = threading.Event()
        self.groups: list[set[str]] = []

    def record(
        self, new: Sequence[NewInstance], before_commit: Callable[[], None] = lambda: None
    ) -> list[StoreVerdict]:
        def say_so() -> None:
            self.written.set()
            before_commit()

        self.groups.append({item.sop_instance_uid for item in new})
        return super().record(new, say_so)


@pytest.fixture
def index(tmp_path: Path) -> WatchedIndex:
    database = migrated(tmp_path / "test.db")
    return WatchedIndex(database)


def instance(number: int) -> NewInstance:
    return new_instance("1.2", "1.2.3", sop_instance_uid=f"1.2.3.{number}")


def store_together(group_commit: GroupCommit) -> list[Future[StoreVerdict]]:
    """Two instances of two associations, the second of which comes while the first one's file is synced."""
    held = threading.Event()
    storing = []
    with ThreadPoolExecutor(2) as associations:
        for number, file in enumerate((File(held=held), File()), 1):
            storing.append(associations.submit(group_commit.commit, instance(number), file))
            assert file.begun.wait(SECONDS)
        held.set()
    return storing


def test_rows_of_a_single_instance_are_written_while_its_file_is_synced(index: WatchedIndex) -> None:
    held = threading.Event()
    group_commit, file = GroupCommit(index), File(held=held)
    with ThreadPoolExecutor(1) as association:
        storing = association.submit(group_commit.commit, instance(1), file)
        assert index.written.wait(SECONDS)
        assert not storing.done()
        assert index.find_instance("1.2.3.1") is None
        held.set()
        assert storing.result(SECONDS) is StoreVerdict.STORED
    assert file.synced
    assert index.find_instance("1.2.3.1") is not None


def test_safe_instance_does_not_wait_for_another_ones_disk(
    index: WatchedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.database, "contended", lambda: True)
    held = threading.Event()
    group_commit = GroupCommit(index)
    with ThreadPoolExecutor(1) as association:
        storing = association.submit(group_commit.commit, instance(1), File(held=held))
        assert group_commit.commit(instance(2), File()) is StoreVerdict.STORED
        assert not storing.done()
        held.set()
        assert storing.result(SECONDS) is StoreVerdict.STORED


def test_instance_that_is_being_synced_joins_the_group(
    index: WatchedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.database, "contended", lambda: True)
    monkeypatch.setattr("handlers.spool.group_commit.GATHER_SECONDS", SECONDS)
    storing = store_together(GroupCommit(index))
    assert [future.result(SECONDS) for future in storing] == [StoreVerdict.STORED] * 2
    assert index.groups == [{"1.2.3.1", "1.2.3.2"}]


@pytest.mark.parametrize("contended", [False, True])
def test_file_that_cannot_be_synced_is_not_indexed(
    index: WatchedIndex, monkeypatch: pytest.MonkeyPatch, contended: bool
) -> None:
    monkeypatch.setattr(index.database, "contended", lambda: contended)
    group_commit = GroupCommit(index)
    with pytest.raises(OSError, match="broken"):
        group_commit.commit(instance(1), File(fault=OSError(5, "broken")))
    assert index.find_instance("1.2.3.1") is None
    assert group_commit.commit(instance(2), File()) is StoreVerdict.STORED


def test_failure_of_a_group_is_told_to_each_of_it_and_ends_with_it(
    index: WatchedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(index.database, "contended", lambda: True)
    monkeypatch.setattr("handlers.spool.group_commit.GATHER_SECONDS", SECONDS)
    monkeypatch.setattr(index, "record", failing_once(index.record))
    group_commit = GroupCommit(index)
    for future in store_together(group_commit):
        with pytest.raises(DatabaseUnavailable):
            future.result(SECONDS)
    assert group_commit.commit(instance(3), File()) is StoreVerdict.STORED
    assert index.groups == [{"1.2.3.3"}]


class OnceContendedIndex(Index):
    """Is told by the database, when everything is written, that another process was first."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self.tries = 0

    def _record(self, new: Sequence[NewInstance], before_commit: Callable[[], None]) -> list[StoreVerdict]:
        self.tries += 1
        if self.tries == 1:
            before_commit()
            raise Contended("another process wrote them")
        return super()._record(new, before_commit)


def test_file_of_a_transaction_that_is_tried_again_is_synced_once(
    index: WatchedIndex, tmp_path: Path
) -> None:
    make_folders(tmp_path / "spool")
    spool = Spool(tmp_path / "spool")
    file = spool.file(file_head("1.2", "1.2.3.1", "1.2.840.10008.1.2", "CT"))
    file.complete()
    contended = OnceContendedIndex(index.database)
    group_commit = GroupCommit(contended)
    assert group_commit.commit(instance(1), file) is StoreVerdict.STORED
    assert contended.tries == 2
    spool.close()


def test_instance_that_comes_during_another_ones_commit_is_committed_after_it(index: WatchedIndex) -> None:
    held = threading.Event()
    group_commit = GroupCommit(index)
    with ThreadPoolExecutor(2) as associations:
        first = associations.submit(group_commit.commit, instance(1), File(held=held))
        assert index.written.wait(SECONDS)
        file = File()
        second = associations.submit(group_commit.commit, instance(2), file)
        assert file.begun.wait(SECONDS)
        assert not second.done()
        held.set()
        assert [future.result(SECONDS) for future in (first, second)] == [StoreVerdict.STORED] * 2
    assert index.groups == [{"1.2.3.1"}, {"1.2.3.2"}]
