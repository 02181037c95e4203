"""The model of the disk is as strict as it says, and a recording has what a process did."""

from __future__ import annotations

import os
import random
import sys
from pathlib import Path

import pytest

from tests.power.disk import SECTOR, Disk
from tests.power.trace import (
    FolderMade,
    Opened,
    Operation,
    Recording,
    Removed,
    Renamed,
    Resized,
    Said,
    SyncBegun,
    SyncEnded,
    Written,
)


def disk_after(root: Path, *operations: Operation) -> Disk:
    disk = Disk(root)
    for operation in operations:
        disk.apply(operation)
    return disk


def created(path: str, data: bytes) -> tuple[Operation, ...]:
    return (Opened(path=path, create=True, truncate=False), Written(path=path, offset=0, data=data))


def synced(path: str) -> tuple[Operation, ...]:
    return (SyncBegun(path=path, thread=1), SyncEnded(path=path, thread=1))


def test_synced_file_in_a_folder_that_was_not_synced_is_lost(tmp_path: Path) -> None:
    disk = disk_after(tmp_path, *created("a", b"x"), *synced("a"))
    assert disk.synced() == {}
    assert disk.whole() == {"a": b"x"}


def test_name_survives_without_the_bytes_that_were_not_synced(tmp_path: Path) -> None:
    disk = disk_after(tmp_path, *created("a", b"x"), *synced("."))
    assert disk.synced() == {"a": b""}


def test_folder_needs_its_parent_synced(tmp_path: Path) -> None:
    made = (FolderMade(path="d"), *created("d/a", b"x"), *synced("d/a"), *synced("d"))
    assert disk_after(tmp_path, *made).synced() == {}
    assert disk_after(tmp_path, *made, *synced(".")).synced() == {"d": None, "d/a": b"x"}


def test_sync_that_began_earlier_does_not_cover_a_write(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    disk = disk_after(
        tmp_path,
        SyncBegun(path="a", thread=1),
        Written(path="a", offset=0, data=b"new"),
        SyncBegun(path="a", thread=2),
        SyncEnded(path="a", thread=1),
    )
    assert disk.synced() == {"a": b"old"}
    disk.apply(SyncEnded(path="a", thread=2))
    assert disk.synced() == {"a": b"new"}


def test_rename_and_removal_need_the_folder_synced(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    done = (Renamed(path="a", to="c"), Removed(path="b"))
    assert disk_after(tmp_path, *done).synced() == {"a": b"1", "b": b"2"}
    assert disk_after(tmp_path, *done, *synced(".")).synced() == {"c": b"1"}


def test_torn_states_mix_old_and_new_sectors(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"o" * 4 * SECTOR)
    disk = disk_after(
        tmp_path, Written(path="a", offset=0, data=b"n" * 4 * SECTOR), Resized(path="a", size=10)
    )
    contents = {disk.torn(random.Random(seed))["a"] for seed in range(300)}
    assert {len(content or b"") for content in contents} == {10, 4 * SECTOR}
    assert any(content and content[:1] == b"o" and content[-1:] == b"n" for content in contents)


PROGRAM = """
import os, sys
root = sys.argv[1] + "/"
os.mkdir(root + "d")
with open(root + "d/a", "wb") as file:
    file.write(b"one")
    file.flush()
    os.fsync(file.fileno())
    file.seek(1)
    file.write(b"two")
with open(root + "d/a", "ab") as file:
    file.write(b"end")
os.rename(root + "d/a", root + "d/b")
os.ftruncate(os.open(root + "d/b", os.O_RDWR), 5)
os.write(1, b"done\\n")
os.unlink(root + "d/b")
"""


@pytest.mark.peer
def test_recording_has_what_a_process_did_in_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    command: list[str | Path] = [sys.executable, "-c", PROGRAM, root]
    recording = Recording(command, root, tmp_path, os.environ)
    assert recording.wait() == 0, recording.log.read_text()
    operations = recording.operations()
    thread = next(op.thread for op in operations if isinstance(op, SyncBegun))
    assert operations == [
        FolderMade(path="d"),
        Opened(path="d/a", create=True, truncate=True),
        Written(path="d/a", offset=0, data=b"one"),
        SyncBegun(path="d/a", thread=thread),
        SyncEnded(path="d/a", thread=thread),
        Written(path="d/a", offset=1, data=b"two"),
        Opened(path="d/a", create=True, truncate=False),
        Written(path="d/a", offset=None, data=b"end"),
        Renamed(path="d/a", to="d/b"),
        Opened(path="d/b", create=False, truncate=False),
        Resized(path="d/b", size=5),
        Said(port=0, data=b"done\n"),
        Removed(path="d/b"),
    ]
