"""Files made in advance, and the spool after a crash: what was not acknowledged is cleared up, and nothing else."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from db.database import Database, DatabaseSettings
from handlers.spool.files import FILES_AT_ONCE, Spool, file_head, is_whole, make_folders, reconcile
from tests.handlers.conftest import running, write_object
from tests.peers.dcmtk import storescu


def test_partial_files_are_removed_unknown_ones_set_aside_and_indexed_ones_kept(tmp_path: Path) -> None:
    write_object(tmp_path / "object.dcm")
    with running(tmp_path / "node") as receiver:
        storescu(receiver.port, tmp_path / "object.dcm")
        (kept,) = receiver.files()
    spool = tmp_path / "node" / "spool"
    whole = bytes(128) + b"DICM" + b"never acknowledged"
    (spool / "00" / "aaaa.dcm").write_bytes(bytes(200))
    (spool / "00" / "cccc.dcm").touch()
    (spool / "01" / "bbbb.dcm").write_bytes(whole)
    database = Database.open(DatabaseSettings(url=f"sqlite:///{tmp_path / 'node' / 'test.db'}"))
    reconcile(spool, database)
    database.close()
    assert [path for path in spool.rglob("*") if path.is_file()] == [kept]
    assert (tmp_path / "node" / "orphans" / "bbbb.dcm").read_bytes() == whole


HEAD = file_head("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", "CT1")


def names(spool: Path) -> set[str]:
    return {path.relative_to(spool).as_posix() for path in spool.rglob("*") if path.is_file()}


def test_folder_is_synced_once_for_many_files_and_spare_ones_are_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folders(tmp_path / "spool")
    synced: list[tuple[Path, int]] = []
    monkeypatch.setattr(
        "handlers.spool.files.sync_folder",
        lambda folder: synced.append((folder, len(list(folder.iterdir())))),
    )
    spool = Spool(tmp_path / "spool")
    used = [spool.file(HEAD) for _ in range(FILES_AT_ONCE + 1)]
    assert [count for _, count in synced[:1]] == [FILES_AT_ONCE]
    assert len(synced) == 2
    assert {file.path.parent for file in used} <= {folder for folder, _ in synced}
    spool.close()
    assert names(tmp_path / "spool") == {file.relative for file in used}
    for file in used:
        file.discard()
    assert names(tmp_path / "spool") == set()


def test_no_file_is_given_out_whose_name_is_not_durable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folders(tmp_path / "spool")
    spool = Spool(tmp_path / "spool")

    def broken(folder: Path) -> None:
        raise OSError(5, "broken")

    with monkeypatch.context() as patch:
        patch.setattr("handlers.spool.files.sync_folder", broken)
        with pytest.raises(OSError, match="broken"):
            spool.file(HEAD)
    assert names(tmp_path / "spool") == set()
    spool.file(HEAD).discard()


def test_file_is_whole_when_all_has_come(tmp_path: Path) -> None:
    make_folders(tmp_path / "spool")
    file = Spool(tmp_path / "spool").file(HEAD)
    assert not is_whole(file.path)
    file.append(memoryview(b"data"))
    assert not is_whole(file.path)
    file.complete()
    assert is_whole(file.path)
    file.discard()


def test_receiver_that_stops_leaves_no_empty_file(tmp_path: Path) -> None:
    write_object(tmp_path / "object.dcm")
    with running(tmp_path / "node") as receiver:
        storescu(receiver.port, tmp_path / "object.dcm")
        assert len(names(tmp_path / "node" / "spool")) == FILES_AT_ONCE
        (kept,) = receiver.files()
    assert names(tmp_path / "node" / "spool") == {kept.relative_to(tmp_path / "node" / "spool").as_posix()}


def test_file_whose_head_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_folders(tmp_path / "spool")
    spool = Spool(tmp_path / "spool")
    spool.file(HEAD).discard()
    before = names(tmp_path / "spool")
    gc.collect()  # what other tests left in cycles is closed at some time
    handles = set(os.listdir("/proc/self/fd"))

    def full(descriptor: int, data: memoryview) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("handlers.spool.files.os.write", full)
        with pytest.raises(OSError, match="No space left"):
            spool.file(HEAD)
    assert set(os.listdir("/proc/self/fd")) <= handles
    assert len(before - names(tmp_path / "spool")) == 1
