"""The ticker: when a study is complete, and what waits for names that the configuration does not have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text

from db.database import Database
from db.index import Index
from db.queue import Queue
from db.records import Done, Instance, PlannedJob, StudyProgress
from db.states import JobState
from db.wakeup import Wakeup
from inference.headers import Selection
from node.configuration.configuration import Configuration
from node.configuration.loading import load
from node.roles.ticker import Ticker, is_complete
from tests.db.conftest import new_instance, new_result, planned, queued_job

NOW = datetime(2026, 1, 1, 12, 0, tzinfo=UTC)


def study(last: datetime, **changes: Any) -> StudyProgress:
    values: dict[str, Any] = {
        "study_instance_uid": "1.1",
        "revision": 0,
        "instance_count": 5,
        "last_instance_at": last,
        "released": True,
        "modalities": ("CT",),
        "expected_instances": None,
    }
    return StudyProgress(**{**values, **changes})


@pytest.mark.parametrize(
    ("seconds", "complete"),
    [(1, False), (29, False), (30, True), (-59, False), (-60, True), (-3600, True)],
)
def test_silence_completes_a_study_also_where_the_clock_was_set_back(seconds: float, complete: bool) -> None:
    assert is_complete(study(NOW - timedelta(seconds=seconds)), NOW, 30) == complete


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (TypeError("Canary^Patient"), "chest_xray failed to say whether it takes this series (TypeError)"),
        (Selection(inputs=(), refused={}), "cxr selects no image of it"),
    ],
)
def test_engine_that_does_not_say_what_it_takes_keeps_no_study_waiting(
    configuration: Configuration,
    database: Database,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    outcome: Selection | Exception,
    reason: str,
) -> None:
    class Foreign:
        @staticmethod
        def select(headers: object) -> Selection:
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

    monkeypatch.setattr("node.steps.planning.engine_class", lambda kind: Foreign)
    route = '[[route]]\nname = "all"\nmatch = {}\nengines = ["cxr"]\ndestinations = ["pacs"]\n'
    configuration.file.write_text(configuration.file.read_text() + route)
    configuration = load(configuration.file)
    Index(database).record([new_instance(attributes={"Modality": "DX"}, received_at=NOW)])
    assert Ticker(configuration, database).complete_studies() == 1
    (job,) = Queue(database).jobs()
    assert (job.state, job.engine) == (JobState.SKIPPED, "cxr")
    assert str(job.reason).startswith(reason)
    assert ("selection_failed" in caplog.text) == isinstance(outcome, Exception)
    assert "Canary" not in caplog.text


def test_job_has_the_bytes_of_its_inputs_and_the_share_of_its_source_and_rule(
    configuration: Configuration, database: Database
) -> None:
    route = (
        '[[route]]\nname = "chest"\nmatch = { BodyPartExamined = "CHEST" }\nengines = ["cxr"]\n'
        'destinations = ["pacs"]\npriority = 2\nweight = 3\n'
    )
    configuration.file.write_text(configuration.file.read_text() + route)
    image = {"Modality": "DX", "ViewPosition": "PA", "BodyPartExamined": "CHEST"}
    basic_text_sr = "1.2.840.10008.5.1.4.1.1.88.11"
    Index(database).record(
        [
            new_instance(size=2000, calling_ae="DX7", attributes=image, received_at=NOW),
            new_instance(
                size=7, sop_class_uid=basic_text_sr, calling_ae="DX7", attributes=image, received_at=NOW
            ),
            new_instance(
                "1.1", "1.1.2", size=30, calling_ae="CT1", attributes={"Modality": "CT"}, received_at=NOW
            ),
        ]
    )
    assert Ticker(load(configuration.file), database).complete_studies() == 1
    with database.read() as connection:
        columns = text("SELECT priority, input_bytes, flow, weight FROM jobs ORDER BY series_instance_uid")
        assert [tuple(row) for row in connection.execute(columns)] == [
            (2, 2000, "DX7\\chest", 3.0),
            (0, 30, "CT1\\", 1.0),
        ]


def test_worker_hears_of_a_study_before_the_next_one_is_planned(
    configuration: Configuration, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many are complete at once, for example after a pause of the ticker."""
    heard: list[bool] = []

    def plan_study(_: Configuration, instances: Sequence[Instance]) -> list[PlannedJob]:
        heard.append(worker.wait(0))
        return [planned(instances[0].series_instance_uid)]

    monkeypatch.setattr("node.roles.ticker.plan_study", plan_study)
    Index(database).record(
        [new_instance(study, f"{study}.1", received_at=NOW) for study in ("1.1", "1.2", "1.3")]
    )
    worker = Wakeup(configuration.run_dir, "worker")
    assert worker.wait(5), "it hears itself start"
    assert Ticker(configuration, database).complete_studies() == 3
    assert heard == [False, True, True]
    assert worker.wait(0)
    worker.close()


def test_what_waits_for_names_that_are_not_configured_is_in_the_log(
    configuration: Configuration, database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    queued_job(database, "1.1", destinations=("gone",))
    (job,) = Queue(database).claim("w", ["cxr"], 1, 60)
    Queue(database).settle(job, Done(model_version="m", results=(new_result("1.1"),)))
    queued_job(database, "1.2", engine="renamed")
    with caplog.at_level(logging.WARNING):
        Ticker(configuration, database).warn_of_unconfigured()
    assert "deliveries_wait destination=gone count=1" in caplog.text
    assert "jobs_wait engine=renamed count=1" in caplog.text
