"""Studies follow their instances: a stored instance creates its study, updates it, or opens it again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.database import time_text
from db.records import NewInstance
from db.states import StudyEvent, StudyState
from db.tables import studies
from db.transitions import STUDIES, change, record

RECEIVER = "receiver"
# Built once, because building and hashing a statement takes as long as running it. Most instances only need the first.
UPDATE_RECEIVING = (
    update(studies)
    .where(studies.c.study_instance_uid == bindparam("uid"), studies.c.state == str(StudyState.RECEIVING))
    .values(
        released=False,
        instance_count=studies.c.instance_count + bindparam("more"),
        instance_bytes=studies.c.instance_bytes + bindparam("bytes"),
        last_instance_at=bindparam("last"),
        association=bindparam("by"),
        expected_instances=func.coalesce(bindparam("expected"), studies.c.expected_instances),
    )
    .returning(studies.c.modalities)
)
INSERT_STUDY = {
    dialect: server.insert(studies)
    .on_conflict_do_nothing(index_elements=[studies.c.study_instance_uid])
    .execution_options(preserve_rowcount=True)
    for dialect, server in (("sqlite", sqlite), ("postgresql", postgresql))
}


def update_studies(connection: Connection, stored: Sequence[NewInstance]) -> None:
    """Create, update or reopen the studies of newly stored instances, in the caller's transaction."""
    by_study: dict[str, list[NewInstance]] = {}
    for item in stored:
        by_study.setdefault(item.study_instance_uid, []).append(item)
    # In the order of the UIDs, so that two receivers never deadlock on each other's rows.
    for uid, items in sorted(by_study.items()):
        _update_study(connection, uid, items)


def _update_study(connection: Connection, uid: str, items: Sequence[NewInstance]) -> None:
    last = items[-1]
    modalities = {str(item.attributes.get("Modality") or "") for item in items}
    values = {
        "uid": uid,
        "more": len(items),
        "bytes": sum(item.size for item in items),
        "last": time_text(last.received_at),
        "by": last.association,
        "expected": max(map(_expected_instances, items)) or None,
    }
    why = f"an instance came by association {last.association}"
    modalities_before = connection.execute(UPDATE_RECEIVING, values).scalar_one_or_none()
    if modalities_before is None:
        if _insert_if_new(connection, values, items[0], modalities):
            record(connection, STUDIES, uid, who=RECEIVER, was=None, becomes=StudyState.RECEIVING, why=why)
            return
        _reopen(connection, uid, why)
        modalities_before = connection.execute(UPDATE_RECEIVING, values).scalar_one()
    if not modalities <= (before := set(json.loads(modalities_before))):
        connection.execute(
            update(studies)
            .where(studies.c.study_instance_uid == uid)
            .values(modalities=json.dumps(sorted(modalities | before)))
        )


def _reopen(connection: Connection, uid: str, why: str) -> None:
    """Take a complete study back to receiving, unless another receiver has just done so."""
    state = connection.execute(
        select(studies.c.state).where(studies.c.study_instance_uid == uid).with_for_update()
    ).scalar_one()
    if state == StudyState.COMPLETE:
        change(connection, STUDIES, uid, StudyState.COMPLETE, StudyEvent.REOPEN, who=RECEIVER, why=why)


def _insert_if_new(
    connection: Connection, values: dict[str, Any], first: NewInstance, modalities: set[str]
) -> bool:
    """Insert the study unless it is there; whether it was inserted."""
    row = {
        "study_instance_uid": values["uid"],
        "state": str(StudyState.RECEIVING),
        "revision": 0,
        "instance_count": values["more"],
        "instance_bytes": values["bytes"],
        "first_instance_at": time_text(first.received_at),
        "last_instance_at": values["last"],
        "association": values["by"],
        "released": False,
        "modalities": json.dumps(sorted(modalities)),
        "expected_instances": values["expected"],
    }
    return connection.execute(INSERT_STUDY[connection.dialect.name], row).rowcount == 1


def _expected_instances(item: NewInstance) -> int:
    """Number of Study Related Instances (0020,1208) as the sender gave it, or 0."""
    value = item.attributes.get("NumberOfStudyRelatedInstances")
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else 0
