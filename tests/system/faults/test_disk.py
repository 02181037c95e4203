"""A disk that grows full refuses instances in time and takes them again when there is room."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from handlers import disk
from handlers.disk import DiskWatch
from tests.peers.dcmtk import storescu
from tests.peers.node import Node
from tests.system.conftest import write_radiograph


def test_node_without_the_reserve_answers_out_of_resources(tmp_path: Path) -> None:
    write_radiograph(tmp_path / "study.dcm", 1)
    free = disk.free_bytes(tmp_path)
    with Node(
        tmp_path / "node", receivers=1, engine=False, extra=f"\n[spool]\nreserve = {free * 2}\n"
    ) as node:
        with pytest.raises(subprocess.CalledProcessError):
            storescu(node.port, tmp_path / "study.dcm")
        assert "status=A700" in node.log
        assert "disk_nearly_full" in node.log
        assert [p for p in (node.data_dir / "spool").rglob("*") if p.is_file()] == []
        text = node.configuration.read_text()
        node.configuration.write_text(text.replace(f"reserve = {free * 2}", 'reserve = "1KB"'))
        node.reload()

        def taken() -> bool:
            try:
                storescu(node.port, tmp_path / "study.dcm")
            except subprocess.CalledProcessError:
                return False
            return True

        from tests.peers.waiting import wait_until

        wait_until(taken, 30, "the node takes instances again")


def test_room_that_comes_back_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    free = [10]
    monkeypatch.setattr(disk, "free_bytes", lambda folder: free[0])
    monkeypatch.setattr("handlers.disk.time.monotonic", lambda: clock[0])
    watch = DiskWatch(tmp_path, 100)
    assert watch.full()
    free[0] = 1000
    assert watch.full()
    clock[0] = disk.LOOK_SECONDS
    assert not watch.full()
