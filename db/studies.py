"""What an instance that was stored does to its study: it is born, goes on, or is opened again."""

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
# Made once, because building and hashing a statement takes as long as running it. Most instances need the first only.
TOUCH = (
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
BEAR = {
    dialect: server.insert(studies)
    .on_conflict_do_nothing(index_elements=[studies.c.study_instance_uid])
    .execution_options(preserve_rowcount=True)
    for dialect, server in (("sqlite", sqlite), ("postgresql", postgresql))
}


def touch_studies(connection: Connection, stored: Sequence[NewInstance]) -> None:
    """Bring the studies of newly stored instances up to date, in the caller's transaction."""
    by_study: dict[str, list[NewInstance]] = {}
    for item in stored:
        by_study.setdefault(item.study_instance_uid, []).append(item)
    # In one order everywhere, so that two receivers never wait for each other's rows.
    for uid, items in sorted(by_study.items()):
        _touch(connection, uid, items)


def _touch(connection: Connection, uid: str, items: Sequence[NewInstance]) -> None:
    last = items[-1]
    modalities = {str(item.attributes.get("Modality") or "") for item in items}
    touched = {
        "uid": uid,
        "more": len(items),
        "bytes": sum(item.size for item in items),
        "last": time_text(last.received_at),
        "by": last.association,
        "expected": max(map(_expected, items)) or None,
    }
    why = f"an instance came by association {last.association}"
    known = connection.execute(TOUCH, touched).scalar_one_or_none()
    if known is None:
        if _born(connection, touched, items[0], modalities):
            record(connection, STUDIES, uid, who=RECEIVER, was=None, becomes=StudyState.RECEIVING, why=why)
            return
        _open(connection, uid, why)
        known = connection.execute(TOUCH, touched).scalar_one()
    if not modalities <= (before := set(json.loads(known))):
        connection.execute(
            update(studies)
            .where(studies.c.study_instance_uid == uid)
            .values(modalities=json.dumps(sorted(modalities | before)))
        )


def _open(connection: Connection, uid: str, why: str) -> None:
    """Open a study again, unless another receiver has done so meanwhile."""
    state = connection.execute(
        select(studies.c.state).where(studies.c.study_instance_uid == uid).with_for_update()
    ).scalar_one()
    if state == StudyState.COMPLETE:
        change(connection, STUDIES, uid, StudyState.COMPLETE, StudyEvent.REOPEN, who=RECEIVER, why=why)


def _born(connection: Connection, touched: dict[str, Any], first: NewInstance, modalities: set[str]) -> bool:
    """Whether this instance is the first of its study, which then has a row."""
    row = {
        "study_instance_uid": touched["uid"],
        "state": str(StudyState.RECEIVING),
        "revision": 0,
        "instance_count": touched["more"],
        "instance_bytes": touched["bytes"],
        "first_instance_at": time_text(first.received_at),
        "last_instance_at": touched["last"],
        "association": touched["by"],
        "released": False,
        "modalities": json.dumps(sorted(modalities)),
        "expected_instances": touched["expected"],
    }
    return connection.execute(BEAR[connection.dialect.name], row).rowcount == 1


def _expected(item: NewInstance) -> int:
    value = item.attributes.get("NumberOfStudyRelatedInstances")
    return int(value) if isinstance(value, str) and value.strip().isdecimal() else 0
