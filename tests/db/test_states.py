"""The state machine: its table is what happens, and the document says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import insert, select

from db.database import Database, DatabaseSettings, now, time_text
from db.errors import IllegalTransition
from db.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, JobEvent, JobState, diagram
from db.tables import history, jobs
from db.transitions import JOBS, change

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "states.md"


def test_document_is_the_table() -> None:
    assert DOCUMENT.read_text() == diagram(), "write it anew: python -m db.states"


def test_every_state_can_be_reached() -> None:
    assert {*JOB_TRANSITIONS.values(), JobState.QUEUED, JobState.SKIPPED} == set(JobState)
    assert len(set(DELIVERY_TRANSITIONS.values())) >= 4


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Database:
    database = Database.open(
        DatabaseSettings(url=f"sqlite:///{tmp_path_factory.mktemp('states') / 'test.db'}")
    )
    database.upgrade()
    return database


@given(was=st.sampled_from(JobState), event=st.sampled_from(JobEvent))
def test_steps_outside_of_the_table_raise_and_change_nothing(
    sqlite: Database, was: JobState, event: JobEvent
) -> None:
    moment = time_text(now())
    with sqlite.write() as connection:
        identifier = connection.execute(
            insert(jobs)
            .values(
                study_instance_uid="1",
                series_instance_uid="1.1",
                revision=1,
                engine="e",
                route="r",
                destinations="[]",
                state=str(was),
                priority=0,
                attempts=0,
                inputs="[]",
                inputs_digest="d",
                created_at=moment,
                updated_at=moment,
                review_advised=False,
            )
            .returning(jobs.c.id)
        ).scalar_one()
    becomes = JOB_TRANSITIONS.get((was, event))
    try:
        with sqlite.write() as connection:
            change(connection, JOBS, identifier, was, event, who="t", why="t")
    except IllegalTransition:
        assert becomes is None
    with sqlite.read() as connection:
        state = connection.execute(select(jobs.c.state).where(jobs.c.id == identifier)).scalar_one()
        written = connection.execute(select(history.c.id).where(history.c.subject_id == identifier)).all()
    assert state == str(becomes or was)
    assert len(written) == (becomes is not None)
