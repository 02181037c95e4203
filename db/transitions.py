"""The only place that changes states: conditional updates and their history rows, in the caller's transaction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    Table,
    and_,
    bindparam,
    insert,
    or_,
    select,
    update,
)

from db.database import now, read_time, time_text
from db.errors import IllegalTransition, StaleLease
from db.records import HistoryEntry
from db.states import DELIVERY_TRANSITIONS, JOB_TRANSITIONS, REPORT_TRANSITIONS, STUDY_TRANSITIONS
from db.tables import commitment_reports, deliveries, history, jobs, studies, study_history

OPERATOR = "operator"
NO_LEASE = {"lease_token": None, "lease_until": None, "owner": None}
INSERT_HISTORY = {table: insert(table).inline() for table in (history, study_history)}
"""Built once, because building a statement takes as long as running it."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """A table whose rows have a state, its transitions, and the table with its history."""

    subject: str
    table: Table
    transitions: Mapping[tuple[Any, Any], Any]
    key: str = "id"
    """The column that identifies a row."""
    history: Table = history

    def history_key(self, identifier: int | str) -> dict[str, int | str]:
        """The columns by which the history identifies a row, with their values."""
        if self.history is history:
            return {"subject": self.subject, "subject_id": identifier}
        return {self.key: identifier}

    def entries(self, identifier: int | str) -> Select[Any]:
        """The query for a row's history, oldest first."""
        matches = (self.history.c[name] == value for name, value in self.history_key(identifier).items())
        return select(self.history).where(*matches).order_by(self.history.c.id)

    def is_in(self, state: ColumnElement[str] | str) -> ColumnElement[bool]:
        """The condition that a row that is looked up by its key is in this state.

        It is no condition for an index: Postgres would at times read all rows in the state to find the one.
        """
        return self.table.c.state.concat("") == state

    def due(self, state: StrEnum, moment: datetime) -> ColumnElement[bool]:
        """The condition that a row is in this state and its ``not_before`` has passed."""
        column = self.table.c
        return and_(
            column.state == state, or_(column.not_before.is_(None), column.not_before <= time_text(moment))
        )


STUDIES = Machine(
    subject="study",
    table=studies,
    transitions=STUDY_TRANSITIONS,
    key="study_instance_uid",
    history=study_history,
)
JOBS = Machine(subject="job", table=jobs, transitions=JOB_TRANSITIONS)
DELIVERIES = Machine(subject="delivery", table=deliveries, transitions=DELIVERY_TRANSITIONS)
REPORTS = Machine(subject="report", table=commitment_reports, transitions=REPORT_TRANSITIONS)


def change(
    connection: Connection,
    machine: Machine,
    identifier: int | str,
    was: StrEnum,
    event: StrEnum,
    *,
    who: str,
    why: str,
    lease_token: str | None = None,
    values: Mapping[str, Any] | None = None,
) -> None:
    """Apply an event to one row and write its history.

    Args:
        connection: the caller's transaction.
        machine: the kind of row.
        identifier: the row's key.
        was: the state that the row must be in.
        event: what happens to it.
        who: for the history: the process, peer or operator.
        why: for the history.
        lease_token: the lease that the row must be held under, if any.
        values: further columns to set.

    Raises:
        IllegalTransition: the event is not possible in ``was``, or the row was no longer in ``was``.
        StaleLease: the row is not held under ``lease_token``.
    """
    becomes = machine.transitions.get((was, event))
    if becomes is None:
        raise IllegalTransition(f"{machine.subject} {identifier} is {was}: {event} is not possible.")
    table = machine.table
    statement = update(table).where(table.c[machine.key] == identifier, machine.is_in(str(was)))
    if lease_token is not None:
        statement = statement.where(table.c.lease_token == lease_token)
    written = {"state": str(becomes), **(values or {})}
    if "updated_at" in table.c:
        written["updated_at"] = time_text(now())
    changed = connection.execute(statement.values(written)).rowcount
    if not changed and lease_token is not None:
        raise StaleLease(f"{machine.subject} {identifier} is no longer held by {who}.")
    if not changed:
        raise IllegalTransition(f"{machine.subject} {identifier} changed meanwhile: look at it again.")
    record(connection, machine, identifier, who=who, was=str(was), becomes=str(becomes), why=why)


@dataclass(frozen=True, kw_only=True)
class Change:
    """An event for one row: who makes it happen and why, and further columns to set."""

    identifier: int | str
    event: StrEnum
    who: str
    why: str
    values: Mapping[str, Any] = field(default_factory=dict)


def change_all(connection: Connection, machine: Machine, was: StrEnum, changes: Sequence[Change]) -> None:
    """Apply an event to each of many rows, in a few statements.

    Args:
        connection: the caller's transaction, which has to be rolled back if this raises.
        machine: the kind of rows.
        was: the state that the rows are in. The caller has locked them.
        changes: one event for each row.

    Raises:
        IllegalTransition: an event is not possible in ``was``, or a row was not in ``was``.
    """
    moment = time_text(now())
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    entries = []
    for item in changes:
        becomes = machine.transitions.get((was, item.event))
        if becomes is None:
            message = f"{machine.subject} {item.identifier} is {was}: {item.event} is not possible."
            raise IllegalTransition(message)
        written = {"state": str(becomes), **item.values}
        if "updated_at" in machine.table.c:
            written["updated_at"] = moment
        row = {"changed_key": item.identifier, "changed_from": str(was), **written}
        by_columns.setdefault(tuple(sorted(written)), []).append(row)
        entries.append(
            {
                **machine.history_key(item.identifier),
                "at": moment,
                "who": item.who,
                "from_state": str(was),
                "to_state": str(becomes),
                "why": item.why,
            }
        )
    table = machine.table
    statement = update(table).where(
        table.c[machine.key] == bindparam("changed_key"), machine.is_in(bindparam("changed_from"))
    )
    for rows in by_columns.values():
        changed = connection.execute(statement, rows).rowcount
        if changed != len(rows):
            raise IllegalTransition(
                f"{len(rows) - changed} of {len(rows)} {machine.subject} rows were not {was}: look at them again."
            )
    if entries:
        connection.execute(INSERT_HISTORY[machine.history], entries)


def record(
    connection: Connection,
    machine: Machine,
    identifier: int | str,
    *,
    who: str,
    was: str | None,
    becomes: str,
    why: str,
) -> None:
    """Write a history row. ``was`` is None for a new row."""
    connection.execute(
        INSERT_HISTORY[machine.history],
        {
            **machine.history_key(identifier),
            "at": time_text(now()),
            "who": who,
            "from_state": was,
            "to_state": becomes,
            "why": why,
        },
    )


def read_entry(row: Row[Any]) -> HistoryEntry:
    """A change of state from its row."""
    return HistoryEntry(
        at=read_time(row.at), who=row.who, from_state=row.from_state, to_state=row.to_state, why=row.why
    )
