"""Jobs from their rows."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import Row

from db.database import read_optional_time, read_time
from db.records import Job
from db.states import JobState


def read_job(row: Row[Any]) -> Job:
    """A job from its row."""
    return Job(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        revision=row.revision,
        engine=row.engine,
        route=row.route,
        destinations=tuple(json.loads(row.destinations)),
        model_version=row.model_version,
        state=JobState(row.state),
        priority=row.priority,
        attempts=row.attempts,
        reason=row.reason,
        inputs=tuple(json.loads(row.inputs)),
        inputs_digest=row.inputs_digest,
        input_bytes=row.input_bytes,
        predecessor_id=row.predecessor_id,
        lease_token=row.lease_token,
        lease_until=read_optional_time(row.lease_until),
        not_before=read_optional_time(row.not_before),
        created_at=read_time(row.created_at),
        updated_at=read_time(row.updated_at),
        started_at=read_optional_time(row.started_at),
        finished_at=read_optional_time(row.finished_at),
        review_advised=row.review_advised,
        summary=None if row.summary is None else json.loads(row.summary),
    )
