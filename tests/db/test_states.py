"""The state machine: its table is what happens, and the document says the same."""

from __future__ import annotations

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event, insert, select

from db.database import Database, now, time_text
from db.errors import IllegalTransition
from db.index import Index
from db.plans import Plans
from db.states import (
    DELIVERY_TRANSITIONS,
    JOB_TRANSITIONS,
    STUDY_TRANSITIONS,
    JobEvent,
    JobState,
    StudyEvent,
    StudyState,
    diagram,
)
from db.tables import history, jobs, studies
from db.transitions import JOBS, STUDIES, change
from tests.databases import migrated
from tests.db.conftest import new_instance, planned

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "states.md"


def test_document_is_the_table() -> None:
    assert DOCUMENT.read_text() == diagram(), "write it anew: python -m db.states"


def test_every_state_can_be_reached() -> None:
    assert {*JOB_TRANSITIONS.values(), JobState.QUEUED, JobState.SKIPPED} == set(JobState)
    assert len(set(DELIVERY_TRANSITIONS.values())) >= 4
    assert set(STUDY_TRANSITIONS.values()) == set(StudyState)


@pytest.fixture(scope="module")
def sqlite(tmp_path_factory: pytest.TempPathFactory) -> Database:
    return migrated(tmp_path_factory.mktemp("states") / "test.db")


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


@pytest.mark.parametrize("was", StudyState)
@pytest.mark.parametrize("event", StudyEvent)
def test_studies_take_no_other_steps_either(sqlite: Database, was: StudyState, event: StudyEvent) -> None:
    uid = f"2.{list(StudyState).index(was)}.{list(StudyEvent).index(event)}"
    Index(sqlite).record([new_instance(uid, f"{uid}.1")])
    if was is StudyState.COMPLETE:
        Plans(sqlite).complete_study(uid, 1, [])
    before = Index(sqlite).history(uid)
    becomes = STUDY_TRANSITIONS.get((was, event))
    try:
        with sqlite.write() as connection:
            change(connection, STUDIES, uid, was, event, who="t", why="t")
    except IllegalTransition:
        assert becomes is None
    study = Index(sqlite).study(uid)
    assert study is not None
    assert study.state is (becomes or was)
    assert len(Index(sqlite).history(uid)) == len(before) + (becomes is not None)


def test_history_of_a_study_tells_when_it_was_opened_complete_and_reprocessed(database: Database) -> None:
    index, plans = Index(database), Plans(database)
    for association in ("a1", "a2"):
        index.record([new_instance(association=association)])
    assert plans.complete_study("1.1", 2, [planned()])
    index.record([new_instance(association="a3"), new_instance(association="a3")])
    assert plans.complete_study("1.1", 4, [planned(digest="d2")])
    assert plans.reprocess("1.1", 4, [planned(digest="d2")])
    assert [(e.who, e.from_state, e.to_state, e.why) for e in index.history("1.1")] == [
        ("receiver", None, "receiving", "an instance came by association a1"),
        ("planner", "receiving", "complete", "2 instances, 1 new jobs"),
        ("receiver", "complete", "receiving", "an instance came by association a3"),
        ("planner", "receiving", "complete", "4 instances, 1 new jobs"),
        ("operator", "complete", "complete", "4 instances, 1 new jobs"),
    ]
    study = index.study("1.1")
    assert study is not None
    assert (study.state, study.revision, study.instance_count) == (StudyState.COMPLETE, 3, 4)


def test_instance_of_a_study_that_is_being_received_writes_no_other_row(database: Database) -> None:
    index = Index(database)
    index.record([new_instance()])
    statements: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        statements.append(" ".join(statement.split()[:3]))

    event.listen(database.engine, "before_cursor_execute", note)
    index.record([new_instance()])
    event.remove(database.engine, "before_cursor_execute", note)
    assert [s for s in statements if s.startswith(("INSERT", "UPDATE", "SELECT"))] == [
        "INSERT INTO instances",
        "UPDATE studies SET",
    ]


def test_schema_that_migrations_make_is_that_of_the_tables(database: Database) -> None:
    with database.read() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, studies.metadata) == []
