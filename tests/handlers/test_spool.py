"""The spool after a crash: what was not acknowledged is cleared up, and nothing else is touched."""

from __future__ import annotations

from pathlib import Path

from db.database import Database, DatabaseSettings
from handlers.spool import reconcile
from tests.handlers.conftest import running, write_object
from tests.peers.dcmtk import storescu


def test_partial_files_are_removed_unknown_ones_set_aside_and_indexed_ones_kept(tmp_path: Path) -> None:
    write_object(tmp_path / "object.dcm")
    with running(tmp_path / "node") as receiver:
        storescu(receiver.port, tmp_path / "object.dcm")
        (kept,) = receiver.files()
    spool = tmp_path / "node" / "spool"
    (spool / "00" / "aaaa.part").write_bytes(b"half")
    (spool / "01" / "bbbb.dcm").write_bytes(b"whole but never acknowledged")
    database = Database.open(DatabaseSettings(url=f"sqlite:///{tmp_path / 'node' / 'test.db'}"))
    reconcile(spool, database)
    database.close()
    assert [path for path in spool.rglob("*") if path.is_file()] == [kept]
    assert (tmp_path / "node" / "orphans" / "bbbb.dcm").read_bytes() == b"whole but never acknowledged"
