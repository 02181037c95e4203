"""A disk that grows full refuses instances in time and takes them again when there is room."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from handlers.spool import disk
from handlers.spool.disk import DiskWatch
from tests.peers.dcmtk import storescu
from tests.peers.waiting import wait_until
from tests.system.faults.witness import Witness


def test_node_without_the_reserve_answers_out_of_resources_until_there_is_room(tmp_path: Path) -> None:
    short, enough = f"reserve = {2 * disk.free_bytes(tmp_path)}", 'reserve = "1KB"'
    full = Witness(
        tmp_path / "site", with_pacs=False, receivers=1, engine=False, extra=f"\n[spool]\n{enough}\n"
    )
    with full.watching() as witness:
        node = witness.node

        def set_reserve(was: str, becomes: str) -> None:
            seen = node.log.count("receivers_replaced")
            node.configuration.write_text(node.configuration.read_text().replace(was, becomes))
            node.reload()
            wait_until(lambda: node.log.count("receivers_replaced") > seen, 120, "the node has read it")

        set_reserve(enough, short)
        refused = witness.radiograph()
        with pytest.raises(subprocess.CalledProcessError):
            storescu(node.port, refused)
        assert "status=A700" in node.log
        assert "disk_nearly_full" in node.log
        wait_until(lambda: "images are refused" in node.ready().get("disk", ""), 60, "it is not ready")
        set_reserve(short, enough)
        witness.send(refused)
        witness.assert_serves()
        witness.assert_intact(dict.fromkeys(witness.studies, "skipped"))


def test_room_that_comes_back_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    free = [10]
    monkeypatch.setattr(disk, "free_bytes", lambda folder: free[0])
    monkeypatch.setattr("handlers.spool.disk.time.monotonic", lambda: clock[0])
    watch = DiskWatch(tmp_path, 100)
    assert watch.full()
    free[0] = 1000
    assert watch.full()
    clock[0] = disk.CHECK_SECONDS
    assert not watch.full()
