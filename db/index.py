"""The index of what was received: instances, studies and their progress, quarantine."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import compress
from typing import Any

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from db.database import MAX_PARAMETERS, Database, read_time, time_text
from db.errors import Contended
from db.records import (
    HistoryEntry,
    Instance,
    NewInstance,
    QuarantineEntry,
    StoreVerdict,
    Study,
    StudyProgress,
)
from db.states import StudyState
from db.studies import update_studies
from db.tables import instances, quarantine, results, studies
from db.transitions import STUDIES, read_entry

CONFLICT_REASON = "this SOP Instance UID was received before with other content; the first one stays"
# Built once: building and hashing a statement takes as long as running it, and other receivers wait for the write lock
# meanwhile.
INSERT_INSTANCE = {
    dialect: server.insert(instances)
    .on_conflict_do_nothing(index_elements=[instances.c.sop_instance_uid])
    .inline()
    .execution_options(preserve_rowcount=True)
    for dialect, server in (("sqlite", sqlite), ("postgresql", postgresql))
}
TRIES = 10
"""Two receivers may record the same study at once; one of them then tries again."""


class Index:
    """What was received: instances, studies and quarantined objects. Thread-safe."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def record(
        self, new: Sequence[NewInstance], before_commit: Callable[[], None] = lambda: None
    ) -> list[StoreVerdict]:
        """Index received instances in one transaction.

        A stored instance creates or reopens its study. A duplicate changes nothing. A conflict is quarantined, and
        its file stays where it is.

        Args:
            new: the instances, whose files are written.
            before_commit: called last in the transaction, perhaps more than once; what it raises undoes everything.

        Returns:
            A verdict for each instance, in their order.

        Raises:
            DatabaseUnavailable: nothing was indexed.
        """
        for _ in range(TRIES - 1):
            try:
                return self._record(new, before_commit)
            except Contended:
                continue
        return self._record(new, before_commit)

    def _record(self, new: Sequence[NewInstance], before_commit: Callable[[], None]) -> list[StoreVerdict]:
        values = [_instance_values(item) for item in new]
        with self.database.write() as connection:
            statement = INSERT_INSTANCE[connection.dialect.name]
            inserted = [connection.execute(statement, row).rowcount == 1 for row in values]
            update_studies(connection, list(compress(new, inserted)))
            verdicts = [StoreVerdict.STORED] * len(new)
            if not all(inserted):
                stored_digests = self._digests(connection, [item.sop_instance_uid for item in new])
                for position, item in enumerate(new):
                    if inserted[position]:
                        continue
                    if item.sha256 == stored_digests[item.sop_instance_uid]:
                        verdicts[position] = StoreVerdict.DUPLICATE
                    else:
                        verdicts[position] = StoreVerdict.CONFLICT
                        self._quarantine(connection, _conflict_entry(item))
            before_commit()
        return verdicts

    @staticmethod
    def _digests(connection: Connection, uids: Sequence[str]) -> dict[str, str]:
        digests = select(instances.c.sop_instance_uid, instances.c.sha256)
        rows = connection.execute(digests.where(instances.c.sop_instance_uid.in_(uids)))
        return {uid: digest for uid, digest in rows}

    def quarantine(self, entry: QuarantineEntry) -> None:
        """Record an object that is kept but not used."""
        with self.database.write() as connection:
            self._quarantine(connection, entry)

    @staticmethod
    def _quarantine(connection: Connection, entry: QuarantineEntry) -> None:
        connection.execute(
            insert(quarantine).values(
                path=entry.path,
                reason=entry.reason,
                study_instance_uid=entry.study_instance_uid,
                series_instance_uid=entry.series_instance_uid,
                sop_instance_uid=entry.sop_instance_uid,
                sha256=entry.sha256,
                calling_ae=entry.calling_ae,
                peer_address=entry.peer_address,
                at=time_text(entry.at),
            )
        )

    def association_released(self, association: str) -> int:
        """Mark the studies whose last instance came by this association; returns how many."""
        with self.database.write() as connection:
            return connection.execute(
                update(studies)
                .where(studies.c.association == association, studies.c.state == str(StudyState.RECEIVING))
                .values(released=True)
            ).rowcount

    def receiving(self) -> list[StudyProgress]:
        """The studies that are not complete."""
        with self.database.read() as connection:
            rows = connection.execute(
                select(studies).where(studies.c.state == str(StudyState.RECEIVING))
            ).all()
        return [
            StudyProgress(
                study_instance_uid=row.study_instance_uid,
                revision=row.revision,
                instance_count=row.instance_count,
                last_instance_at=read_time(row.last_instance_at),
                released=row.released,
                modalities=tuple(json.loads(row.modalities)),
                expected_instances=row.expected_instances,
            )
            for row in rows
        ]

    def instances(self, study_instance_uid: str, series_instance_uid: str | None = None) -> list[Instance]:
        """The instances of a study, or of one of its series, in order of arrival."""
        statement = select(instances).where(instances.c.study_instance_uid == study_instance_uid)
        if series_instance_uid is not None:
            statement = statement.where(instances.c.series_instance_uid == series_instance_uid)
        with self.database.read() as connection:
            rows = connection.execute(statement.order_by(instances.c.id)).all()
        return [_read_instance(row) for row in rows]

    def find_instance(self, sop_instance_uid: str) -> Instance | None:
        """The instance with this UID, or None."""
        with self.database.read() as connection:
            row = connection.execute(
                select(instances).where(instances.c.sop_instance_uid == sop_instance_uid)
            ).one_or_none()
        return None if row is None else _read_instance(row)

    def find_instances(self, sop_instance_uids: Sequence[str]) -> dict[str, Instance]:
        """Those of these instances that were received, by their UID."""
        found: dict[str, Instance] = {}
        with self.database.read() as connection:
            for start in range(0, len(sop_instance_uids), MAX_PARAMETERS):
                some = sop_instance_uids[start : start + MAX_PARAMETERS]
                for row in connection.execute(
                    select(instances).where(instances.c.sop_instance_uid.in_(some))
                ):
                    found[row.sop_instance_uid] = _read_instance(row)
        return found

    def known_paths(self) -> set[str]:
        """Every file that a row refers to, relative to the data folder."""
        with self.database.read() as connection:
            return {
                path
                for table in (instances, quarantine, results)
                for (path,) in connection.execute(select(table.c.path))
            }

    def quarantined(self, study_instance_uid: str | None = None) -> list[QuarantineEntry]:
        """The quarantined objects of one study, or of all, oldest first."""
        statement = select(quarantine).order_by(quarantine.c.id)
        if study_instance_uid is not None:
            statement = statement.where(quarantine.c.study_instance_uid == study_instance_uid)
        with self.database.read() as connection:
            rows = connection.execute(statement).all()
        return [
            QuarantineEntry(
                path=row.path,
                reason=row.reason,
                study_instance_uid=row.study_instance_uid,
                series_instance_uid=row.series_instance_uid,
                sop_instance_uid=row.sop_instance_uid,
                sha256=row.sha256,
                calling_ae=row.calling_ae,
                peer_address=row.peer_address,
                at=read_time(row.at),
            )
            for row in rows
        ]

    def study(self, study_instance_uid: str) -> Study | None:
        """The study with this UID, or None."""
        with self.database.read() as connection:
            row = connection.execute(
                select(studies).where(studies.c.study_instance_uid == study_instance_uid)
            ).one_or_none()
        return None if row is None else _read_study(row)

    def history(self, study_instance_uid: str) -> list[HistoryEntry]:
        """The changes of a study's state, oldest first."""
        with self.database.read() as connection:
            rows = connection.execute(STUDIES.entries(study_instance_uid)).all()
        return [read_entry(row) for row in rows]

    def series_study(self, series_instance_uid: str) -> str | None:
        """The Study Instance UID of a series, None where the series is not known."""
        with self.database.read() as connection:
            return connection.execute(
                select(instances.c.study_instance_uid)
                .where(instances.c.series_instance_uid == series_instance_uid)
                .limit(1)
            ).scalar_one_or_none()


def _conflict_entry(item: NewInstance) -> QuarantineEntry:
    return QuarantineEntry(
        path=item.path,
        reason=CONFLICT_REASON,
        study_instance_uid=item.study_instance_uid,
        series_instance_uid=item.series_instance_uid,
        sop_instance_uid=item.sop_instance_uid,
        sha256=item.sha256,
        calling_ae=item.calling_ae,
        peer_address=item.peer_address,
        at=item.received_at,
    )


def _instance_values(item: NewInstance) -> dict[str, Any]:
    return {
        "study_instance_uid": item.study_instance_uid,
        "series_instance_uid": item.series_instance_uid,
        "sop_instance_uid": item.sop_instance_uid,
        "sop_class_uid": item.sop_class_uid,
        "transfer_syntax_uid": item.transfer_syntax_uid,
        "path": item.path,
        "size": item.size,
        "sha256": item.sha256,
        "calling_ae": item.calling_ae,
        "called_ae": item.called_ae,
        "peer_address": item.peer_address,
        "association": item.association,
        "received_at": time_text(item.received_at),
        "attributes": json.dumps(item.attributes, ensure_ascii=False),
    }


def _read_instance(row: Row[Any]) -> Instance:
    return Instance(
        id=row.id,
        study_instance_uid=row.study_instance_uid,
        series_instance_uid=row.series_instance_uid,
        sop_instance_uid=row.sop_instance_uid,
        sop_class_uid=row.sop_class_uid,
        transfer_syntax_uid=row.transfer_syntax_uid,
        path=row.path,
        size=row.size,
        sha256=row.sha256,
        calling_ae=row.calling_ae,
        called_ae=row.called_ae,
        peer_address=row.peer_address,
        association=row.association,
        received_at=read_time(row.received_at),
        attributes=json.loads(row.attributes),
    )


def _read_study(row: Row[Any]) -> Study:
    return Study(
        study_instance_uid=row.study_instance_uid,
        state=StudyState(row.state),
        revision=row.revision,
        instance_count=row.instance_count,
        first_instance_at=read_time(row.first_instance_at),
        last_instance_at=read_time(row.last_instance_at),
    )
