"""Results: the objects that jobs made, with the attributes that query/retrieve matches."""

from __future__ import annotations

import json
from collections.abc import Generator, Sequence
from typing import Any

from sqlalchemy import Connection, Row, select
from sqlalchemy.dialects import postgresql, sqlite

from db.database import MAX_PARAMETERS, Database, now, read_time, time_text
from db.records import AttributeValue, Job, NewResult, Result
from db.tables import deliveries, results

ROWS_PER_FETCH = 500
INSERTS = {
    dialect: {
        table: server.insert(table).on_conflict_do_nothing().inline() for table in (results, deliveries)
    }
    for dialect, server in (("sqlite", sqlite), ("postgresql", postgresql))
}
"""Built once, because building a statement takes as long as running it."""


class Results:
    """The result objects, also those of superseded jobs. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def of_job(self, job_id: int) -> list[Result]:
        """The results of one job, the report first."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(results).where(results.c.job_id == job_id).order_by(results.c.id)
            ).all()
        return [_read_result(row) for row in rows]

    def find(
        self,
        *,
        study_instance_uids: Sequence[str] = (),
        series_instance_uids: Sequence[str] = (),
        sop_instance_uids: Sequence[str] = (),
        patient_id: str | None = None,
        accession_number: str | None = None,
        study_date_from: str | None = None,
        study_date_to: str | None = None,
    ) -> Generator[Result, None, None]:
        """Results that satisfy all given filters, oldest first.

        Args:
            study_instance_uids: one of these studies; empty for any.
            series_instance_uids: one of these series; empty for any.
            sop_instance_uids: one of these instances; empty for any.
            patient_id: exactly this value.
            accession_number: exactly this value.
            study_date_from: first day, inclusive, as YYYYMMDD.
            study_date_to: last day, inclusive, as YYYYMMDD.
        """
        statement = select(results).order_by(results.c.id)
        for column, uids in (
            (results.c.study_instance_uid, study_instance_uids),
            (results.c.series_instance_uid, series_instance_uids),
            (results.c.sop_instance_uid, sop_instance_uids),
        ):
            if uids:
                statement = statement.where(column.in_(uids))
        if patient_id is not None:
            statement = statement.where(results.c.patient_id == patient_id)
        if accession_number is not None:
            statement = statement.where(results.c.accession_number == accession_number)
        if study_date_from is not None:
            statement = statement.where(results.c.study_date >= study_date_from)
        if study_date_to is not None:
            statement = statement.where(results.c.study_date <= study_date_to)
        with self.database.read() as connection:
            for row in connection.execution_options(yield_per=ROWS_PER_FETCH).execute(statement):
                yield _read_result(row)


def insert_results(connection: Connection, made: Sequence[tuple[Job, Sequence[NewResult]]]) -> None:
    """Record the results of jobs and their deliveries. Rows that an earlier run recorded are left as they are."""
    moment = time_text(now())
    rows = [_result_values(job, result, moment) for job, new in made for result in new]
    if not rows:
        return
    inserts = INSERTS[connection.dialect.name]
    connection.execute(inserts[results], rows)
    uids = [result.sop_instance_uid for job, new in made if job.destinations for result in new]
    identifiers: dict[str, int] = {}
    for start in range(0, len(uids), MAX_PARAMETERS):
        found = select(results.c.sop_instance_uid, results.c.id).where(
            results.c.sop_instance_uid.in_(uids[start : start + MAX_PARAMETERS])
        )
        identifiers.update((uid, identifier) for uid, identifier in connection.execute(found))
    owed = [
        {
            "job_id": job.id,
            "result_id": identifiers[result.sop_instance_uid],
            "destination": destination,
            "state": "pending",
            "attempts": 0,
            "created_at": moment,
            "updated_at": moment,
        }
        for job, new in made
        for destination in job.destinations
        for result in new
    ]
    if owed:
        connection.execute(inserts[deliveries], owed)


def _result_values(job: Job, result: NewResult, moment: str) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "kind": result.kind,
        "study_instance_uid": result.study_instance_uid,
        "series_instance_uid": result.series_instance_uid,
        "sop_instance_uid": result.sop_instance_uid,
        "sop_class_uid": result.sop_class_uid,
        "transfer_syntax_uid": result.transfer_syntax_uid,
        "path": result.path,
        "size": result.size,
        "sha256": result.sha256,
        "patient_id": _single_value(result.attributes.get("PatientID")),
        "study_date": _single_value(result.attributes.get("StudyDate")),
        "accession_number": _single_value(result.attributes.get("AccessionNumber")),
        "attributes": json.dumps(result.attributes, ensure_ascii=False),
        "created_at": moment,
    }


def _single_value(value: AttributeValue) -> str | None:
    return value if isinstance(value, str) else None


def _read_result(row: Row[Any]) -> Result:
    return Result(
        id=row.id,
        job_id=row.job_id,
        patient_id=row.patient_id,
        kind=row.kind,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        path=row.path,
        size=row.size,
        sha256=row.sha256,
        attributes=json.loads(row.attributes),
        created_at=read_time(row.created_at),
    )
