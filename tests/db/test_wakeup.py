"""Hints between processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from db import wakeup
from db.wakeup import Wakeup, notify


def test_hints_count_as_one_and_reach_their_role_alone(tmp_path: Path) -> None:
    worker, courier = Wakeup(tmp_path, "worker"), Wakeup(tmp_path, "courier")
    assert worker.wait(5) and courier.wait(5), "each hears itself start"
    notify(tmp_path, "worker")
    notify(tmp_path, "worker")
    assert worker.wait(5)
    assert not worker.wait(0)
    assert not courier.wait(0)
    worker.close()
    courier.close()
    assert list(tmp_path.iterdir()) == []


def test_only_sockets_of_dead_processes_of_this_machine_are_cleared_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wakeup, "_machine", lambda: "elsewher")
    left = Wakeup(tmp_path, "worker")
    left._socket.close()
    monkeypatch.setattr(wakeup, "_machine", lambda: "machine1")
    dead = Wakeup(tmp_path, "worker")
    dead._socket.close()
    notify(tmp_path, "worker")
    assert list(tmp_path.iterdir()) == [left.path]


def test_long_folders_have_room_for_sockets(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 20)
    folder.mkdir(parents=True)
    place = Wakeup(folder, "receiver")
    notify(folder, "receiver")
    assert place.wait(5)
    place.close()
