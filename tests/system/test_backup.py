"""The backup of docs/operating.md, made while the node runs, and restored elsewhere."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from tests.peers.dcmtk import findscu, send
from tests.peers.node import Node
from tests.peers.spool import filled
from tests.system.conftest import write_radiograph


def test_backup_of_a_running_node_is_a_node(tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    backup.mkdir()
    study = write_radiograph(tmp_path / "first.dcm", 1)
    write_radiograph(tmp_path / "late.dcm", 2)
    with Node(tmp_path / "node", receivers=1) as node:
        send(node.port, tmp_path / "first.dcm")
        (before,) = node.wait_for_jobs(1)
        with (
            closing(sqlite3.connect(node.data_dir / "overread.db")) as source,
            closing(sqlite3.connect(backup / "overread.db")) as target,
        ):
            source.backup(target)
        send(node.port, tmp_path / "late.dcm")
        for name in ("spool", "results", "models", "audit"):
            shutil.copytree(node.data_dir / name, backup / name)
    restored = Node(tmp_path / "restored", receivers=1)
    shutil.move(backup, restored.data_dir)
    with restored:
        assert restored.jobs() == [before]
        for result in before["results"]:
            assert (restored.data_dir / result["file"]).is_file()
        (answer,) = findscu(restored.port, "STUDY", f"StudyInstanceUID={study.StudyInstanceUID}")
        assert answer["StudyInstanceUID"] == study.StudyInstanceUID
        assert len(filled(restored.data_dir / "spool")) == 1
        (orphan,) = (restored.data_dir / "orphans").iterdir()
        send(restored.port, orphan)
        assert len(restored.wait_for_jobs(2)) == 2
