"""A worker that stops: what is on its line is finished or given back."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from db.database import Database
from db.queue import Queue
from db.states import JobState
from node.configuration.configuration import Configuration
from node.roles.worker import Worker
from tests.db.conftest import queued_job

SECONDS = 30.0


def test_job_that_is_not_done_when_the_worker_stops_is_given_back_without_blame(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.roles.worker.DRAIN_SECONDS", 0.1)
    job = queued_job(database)
    worker = Worker(configuration, database, "w", ["cxr"])
    started, gate = threading.Event(), threading.Event()

    def prepare(_files: Any) -> list[Any]:
        started.set()
        gate.wait(SECONDS)
        return []

    engine: Any = SimpleNamespace(
        settings=SimpleNamespace(name="cxr"),
        model=SimpleNamespace(version="1"),
        batch_size=1,
        device="cpu",
        prepare=prepare,
    )
    worker.loaded["cxr"] = engine
    monkeypatch.setattr(worker.pipeline, "_inputs", lambda _job: [Path("image.dcm")])
    stop = threading.Event()
    serving = threading.Thread(target=worker.serve, args=(stop,))
    serving.start()
    assert started.wait(SECONDS)
    stop.set()
    serving.join(SECONDS)
    assert not {"settling", "leases"}.intersection(thread.name for thread in threading.enumerate())
    gate.set()
    given_back = Queue(database).get(job.id)
    assert given_back is not None
    assert (given_back.state, given_back.attempts) == (JobState.QUEUED, 0)
