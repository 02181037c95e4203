"""A database that is locked or goes away: refused in bounded time, then on again without a restart."""

from __future__ import annotations

import fcntl
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.peers.dcmtk import storescu
from tests.peers.postgres import Postgres
from tests.system.faults.witness import Witness

BOUNDED_SECONDS = 15.0
"""Five that a caller waits for the lock, and what is around it."""
STUDIES = 12


def test_locked_database_refuses_in_bounded_time_and_loses_nothing(tmp_path: Path) -> None:
    with Witness(tmp_path, receivers=1).watching() as witness:
        path = witness.radiograph()
        lock = os.open(witness.node.data_dir / "overread.db.lock", os.O_RDWR)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            started = time.monotonic()
            with pytest.raises(subprocess.CalledProcessError):
                storescu(witness.node.port, path, seconds=30)
            assert time.monotonic() - started < BOUNDED_SECONDS
        finally:
            os.close(lock)
        assert "status=A700" in witness.node.log
        witness.send(path)
        witness.assert_serves()
        witness.assert_intact()


def test_postgres_that_is_restarted_under_load_loses_nothing(tmp_path: Path) -> None:
    with (
        Postgres(tmp_path / "postgres") as server,
        Witness(tmp_path / "site", receivers=1, database=server.create("faults")).watching() as witness,
        ThreadPoolExecutor(1) as modality,
    ):

        def send_all() -> None:
            for _ in range(STUDIES):
                witness.send(witness.radiograph())

        sending = modality.submit(send_all)
        for _ in range(2):
            server.stop()
            server.start()
        sending.result(120)
        witness.assert_serves()
        witness.assert_intact()
