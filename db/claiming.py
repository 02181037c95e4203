"""Which jobs are claimed next: the highest priority first, and within it every flow in its turn.

Each step costs a few descents of the index ``ix_jobs_ready``, however many jobs are queued.
"""

from __future__ import annotations

import functools
import heapq
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Row,
    Select,
    and_,
    bindparam,
    select,
    text,
    update,
)

from db.database import MAX_PARAMETERS, time_text
from db.job_rows import read_job
from db.records import Job
from db.states import JobEvent, JobState
from db.tables import LATER, READY, jobs
from db.transitions import JOBS, Change, change_all
from db.turns import Flow, Turns

HIGHEST_PRIORITY = 2**31 - 1
"""The largest value of the column."""
RIPE_AT_ONCE = 5000
"""Jobs made ready in one transaction: others wait to write meanwhile."""

_WITHOUT_SORTS = text("SET LOCAL enable_sort = off")
_RIPE = and_(LATER, jobs.c.not_before <= bindparam("moment"))
_OF_ENGINE = (READY, jobs.c.engine == bindparam("engine"), jobs.c.priority == bindparam("priority"))
_JOB: Select[Any] = select(jobs.c.id, jobs.c.attempts, jobs.c.input_bytes).with_for_update(skip_locked=True)
_ALONE = _JOB.where(READY, jobs.c.id == bindparam("job"))
_NEVER_TRIED = (
    _JOB.where(
        *_OF_ENGINE, jobs.c.flow.between(bindparam("of_flow"), bindparam("of_flow")), jobs.c.attempts == 0
    )
    # The order of the index: with an equal flow, Postgres might walk through all finished jobs by their numbers.
    .order_by(jobs.c.flow, jobs.c.id)
    .limit(bindparam("most"))
)
_MAKE_READY = (
    update(jobs)
    .where(
        jobs.c.id.in_(
            select(jobs.c.id)
            .where(_RIPE)
            .order_by(jobs.c.not_before)
            .limit(RIPE_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
    )
    .values(not_before=None)
)


def _first_of_each_flow() -> Select[Any]:
    """The oldest job of every flow, in one descent of the index for each (a loose index scan)."""
    row = jobs.alias("found")

    def oldest(*conditions: ColumnElement[bool]) -> Select[Any]:
        # Postgres would walk through all finished jobs by their numbers if it could choose the order.
        return select(jobs.c.id).where(*_OF_ENGINE, *conditions).order_by(jobs.c.flow, jobs.c.id).limit(1)

    first = select(oldest().scalar_subquery().label("id")).cte("firsts", recursive=True)

    def value(column: ColumnElement[Any]) -> ColumnElement[Any]:
        # Not by a join: Postgres would read the whole table for it.
        return select(column).where(row.c.id == first.c.id).correlate(first).scalar_subquery()

    following = oldest(jobs.c.flow > value(row.c.flow)).correlate(first).scalar_subquery()
    first = first.union_all(select(following).where(first.c.id.is_not(None)))
    columns = (value(row.c[name]).label(name) for name in ("flow", "weight", "attempts"))
    return select(first.c.id, *columns).where(first.c.id.is_not(None))


_FIRST_OF_EACH_FLOW = _first_of_each_flow()


@dataclass(frozen=True, kw_only=True)
class Due:
    """What there is to do. ``priority`` is the highest of the jobs that are ready, None without any."""

    priority: int | None
    ripe: bool
    """Whether a job's ``not_before`` has passed: it has to be made ready first."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Locked rows of jobs, with their ``id`` and ``attempts``, and what ``Turns.serve`` needs to know of them."""

    rows: tuple[Row[Any], ...]
    priority: int
    present: float
    starts: dict[Flow, float]


@functools.cache
def _due(engines: int) -> Select[Any]:
    highest = (
        select(jobs.c.priority)
        .where(READY, jobs.c.engine == bindparam(f"engine{n}"), jobs.c.priority <= bindparam("at_most"))
        .order_by(jobs.c.priority.desc())
        .limit(1)
        .scalar_subquery()
        for n in range(engines)
    )
    ripe = select(jobs.c.id).where(_RIPE).order_by(jobs.c.not_before).limit(1).scalar_subquery()
    return select(ripe, *highest)


def _by_index(connection: Connection) -> None:
    """Make Postgres take rows in the order of an index for the rest of the transaction.

    Its statistics are often of a moment when few jobs were queued. It then sorts what it takes for a few.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(_WITHOUT_SORTS)


def due(
    connection: Connection, engines: Sequence[str], moment: datetime, at_most: int = HIGHEST_PRIORITY
) -> Due:
    """What engines have to do at a moment, up to a priority."""
    _by_index(connection)
    names = {f"engine{n}": name for n, name in enumerate(engines)}
    values = {"at_most": at_most, "moment": time_text(moment), **names}
    ripe, *highest = connection.execute(_due(len(engines)), values).one()
    priorities = [priority for priority in highest if priority is not None]
    return Due(priority=max(priorities, default=None), ripe=ripe is not None)


def make_ready(connection: Connection, moment: datetime) -> None:
    """Make jobs ready whose ``not_before`` has passed."""
    _by_index(connection)
    connection.execute(_MAKE_READY, {"moment": time_text(moment)})


def choose(
    connection: Connection,
    turns: Turns,
    engines: Sequence[str],
    moment: datetime,
    *,
    limit: int,
    most_bytes: int | None,
    urgent_over: int | None,
) -> Choice | None:
    """Lock the jobs that are next; None if there are none. The arguments are those of ``Queue.claim``."""
    at_most = HIGHEST_PRIORITY
    while True:
        priority = due(connection, engines, moment, at_most).priority
        if priority is None or (urgent_over is not None and priority <= urgent_over):
            return None
        choice = _choose_of_priority(connection, turns, engines, priority, limit, most_bytes)
        if choice is not None:
            return choice
        # Other workers are claiming all of these.
        at_most = priority - 1


def _choose_of_priority(
    connection: Connection,
    turns: Turns,
    engines: Sequence[str],
    priority: int,
    limit: int,
    most_bytes: int | None,
) -> Choice | None:
    line: list[tuple[float, int, Flow, Row[Any]]] = []
    for engine in engines:
        for head in connection.execute(_FIRST_OF_EACH_FLOW, {"engine": engine, "priority": priority}):
            flow = (engine, head.flow)
            line.append((turns.start(priority, flow), head.id, flow, head))
    heapq.heapify(line)
    fetched: dict[Flow, Iterator[Row[Any]]] = {}
    rows: list[Row[Any]] = []
    starts: dict[Flow, float] = {}
    chosen: str | None = None
    present, total = 0.0, 0
    while line and len(rows) < limit:
        start, _, flow, head = heapq.heappop(line)
        engine = flow[0]
        if chosen not in (None, engine):
            continue
        # A job that failed or killed its worker runs alone, so that it harms no other job.
        alone = head.attempts > 0 and not rows
        if flow not in fetched:
            most = limit - len(rows)
            fetched[flow] = (
                _rows(connection, _ALONE, job=head.id)
                if alone
                else _rows(
                    connection, _NEVER_TRIED, engine=engine, of_flow=flow[1], priority=priority, most=most
                )
            )
        row = next(fetched[flow], None)
        if row is None:
            continue
        if rows and most_bytes is not None and total + row.input_bytes > most_bytes:
            break
        if not rows:
            chosen, present = engine, start
        rows.append(row)
        total += row.input_bytes
        starts[flow] = start + turns.cost(engine, row.input_bytes) / head.weight
        if alone:
            break
        heapq.heappush(line, (starts[flow], row.id, flow, head))
    if not rows:
        return None
    return Choice(rows=tuple(rows), priority=priority, present=present, starts=starts)


def _rows(connection: Connection, statement: Select[Any], **values: Any) -> Iterator[Row[Any]]:
    return iter(connection.execute(statement, values).all())


def take(
    connection: Connection, choice: Choice, worker: str, moment: datetime, lease_seconds: float
) -> list[Job]:
    """Put the chosen jobs under a lease of this worker, in their order."""
    values = {
        "owner": worker,
        "lease_until": time_text(moment + timedelta(seconds=lease_seconds)),
        "started_at": time_text(moment),
        "not_before": None,
    }
    changes = [
        Change(
            identifier=row.id,
            event=JobEvent.CLAIM,
            who=worker,
            why=f"attempt {row.attempts + 1}",
            values={**values, "attempts": row.attempts + 1, "lease_token": uuid.uuid4().hex},
        )
        for row in choice.rows
    ]
    change_all(connection, JOBS, JobState.QUEUED, changes)
    identifiers = [row.id for row in choice.rows]
    taken: dict[int, Job] = {}
    for start in range(0, len(identifiers), MAX_PARAMETERS):
        some = identifiers[start : start + MAX_PARAMETERS]
        rows = connection.execute(select(jobs).where(jobs.c.id.in_(some)))
        taken.update((row.id, read_job(row)) for row in rows)
    return [taken[identifier] for identifier in identifiers]
