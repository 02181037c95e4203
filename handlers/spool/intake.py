"""Intake of instances: they are written to the spool and the index, durably, before they are acknowledged.

It is independent of how instances arrive, by C-STORE or otherwise.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from db.database import Database
from db.errors import DatabaseError, OutcomeUnknown
from db.index import Index
from db.records import AttributeValue, NewInstance, StoreVerdict
from db.wakeup import notify
from handlers.audit.messages import StudyTally
from handlers.audit.trail import AuditTrail
from handlers.encoding.uids import is_uid
from handlers.errors import ScanError
from handlers.peer import Peer
from handlers.settings import ReceiverSettings
from handlers.spool.disk import DiskWatch
from handlers.spool.files import Spool, SpoolFile, file_head
from handlers.spool.group_commit import GroupCommit
from handlers.spool.scan import scan

log = logging.getLogger("overread.storage")

REQUIRED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


@dataclass(frozen=True, kw_only=True)
class Announced:
    """The UIDs that a peer announces for an instance before it sends the dataset."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Cause(Enum):
    """Why an instance is refused."""

    OUT_OF_RESOURCES = "out of resources"
    """The disk or the database cannot store it now; the peer may send it again."""
    DOES_NOT_MATCH = "does not match"
    """The dataset has other UIDs than announced, or lacks required ones."""
    NOT_UNDERSTOOD = "not understood"
    """The bytes are not a dataset in the announced transfer syntax."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """An instance was not stored, or it is unknown whether it was; ``reason`` contains no patient data."""

    cause: Cause
    reason: str


class _InstanceRefused(Exception):
    """Ends the intake of one instance."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Intake:
    """Stores instances in the spool and the index, for all associations of one process. Thread-safe."""

    def __init__(
        self,
        database: Database,
        settings: ReceiverSettings,
        run_directory: Path,
        audit: AuditTrail,
    ) -> None:
        self.settings = settings
        self.run_directory = run_directory
        self.index = Index(database)
        self.audit = audit
        self.disk = DiskWatch(settings.spool, settings.reserve_bytes)
        self.spool = Spool(settings.spool)
        self._group_commit = GroupCommit(self.index)
        self._received: dict[str, dict[str, StudyTally]] = {}
        """What was received, by association identifier and Study Instance UID."""

    def take(self, announced: Announced, dataset: Iterable[memoryview], peer: Peer) -> StoreVerdict | Refused:
        """Store one instance.

        Args:
            announced: the UIDs announced by the peer, which must be well formed.
            dataset: the bytes in fragments, each valid until the next is read. Exceptions of the iterator are
                passed on; nothing is stored then.
            peer: the sender.

        Returns:
            The verdict of the index; the instance is then durable, in quarantine if it is a conflict. Otherwise
            the reason for the refusal.
        """
        try:
            return self._store(announced, dataset, peer)
        except _InstanceRefused as refused:
            return Refused(cause=refused.cause, reason=str(refused))

    def _store(self, announced: Announced, dataset: Iterable[memoryview], peer: Peer) -> StoreVerdict:
        file: SpoolFile | None = None
        kept = False
        try:
            if self.disk.full():
                raise _InstanceRefused(Cause.OUT_OF_RESOURCES, "the disk is nearly full")
            file = self.spool.file(
                file_head(
                    announced.sop_class_uid,
                    announced.sop_instance_uid,
                    announced.transfer_syntax_uid,
                    peer.calling_ae,
                )
            )
            for fragment in dataset:
                file.append(fragment)
            file.complete()
            attributes = self._read_attributes(file, announced)
            instance = self._new_instance(announced, file, attributes, peer)
            verdict = self._group_commit.commit(instance, file)
            kept = verdict is not StoreVerdict.DUPLICATE
            self._count_for_audit(instance)
            if verdict is StoreVerdict.CONFLICT:
                log.warning(
                    "quarantined association=%s reason=%s", peer.association, "same UID, other content"
                )
            return verdict
        except OSError as error:
            log.error("spool_failed association=%s error=%s", peer.association, error.strerror)
            raise _InstanceRefused(Cause.OUT_OF_RESOURCES, "the spool cannot be written") from error
        except OutcomeUnknown as error:
            # The row may exist, so the file stays; if not, the check at the next start sets the file aside.
            kept = True
            raise _InstanceRefused(Cause.OUT_OF_RESOURCES, "the index failed during the commit") from error
        except DatabaseError as error:
            raise _InstanceRefused(Cause.OUT_OF_RESOURCES, "the index cannot be written") from error
        finally:
            if file is not None and not kept:
                file.discard()

    def _read_attributes(self, file: SpoolFile, announced: Announced) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        problem = None
        with file.dataset() as data:
            try:
                attributes = scan(data, announced.transfer_syntax_uid, self.settings.attributes)
            except ScanError as error:
                # Not raised here: its traceback would keep the file mapped.
                problem = str(error)
        if problem is not None:
            raise _InstanceRefused(Cause.NOT_UNDERSTOOD, problem)
        for keyword in REQUIRED_UIDS:
            value = attributes.get(keyword)
            if not isinstance(value, str) or not is_uid(value):
                raise _InstanceRefused(Cause.DOES_NOT_MATCH, f"{keyword} is missing or malformed")
        found = (attributes["SOPInstanceUID"], attributes["SOPClassUID"])
        if found != (announced.sop_instance_uid, announced.sop_class_uid):
            raise _InstanceRefused(Cause.DOES_NOT_MATCH, "the dataset is another SOP class or instance")
        return attributes

    def _new_instance(
        self, announced: Announced, file: SpoolFile, attributes: dict[str, AttributeValue], peer: Peer
    ) -> NewInstance:
        return NewInstance(
            study_instance_uid=str(attributes["StudyInstanceUID"]),
            series_instance_uid=str(attributes["SeriesInstanceUID"]),
            sop_instance_uid=announced.sop_instance_uid,
            sop_class_uid=announced.sop_class_uid,
            transfer_syntax_uid=announced.transfer_syntax_uid,
            path=f"{self.settings.spool.name}/{file.relative}",
            size=file.size,
            sha256=file.sha256,
            calling_ae=peer.calling_ae,
            called_ae=peer.called_ae,
            peer_address=peer.address,
            association=peer.association,
            received_at=datetime.now(UTC),
            attributes=attributes,
        )

    def _count_for_audit(self, instance: NewInstance) -> None:
        studies = self._received.setdefault(instance.association, {})
        uid = instance.study_instance_uid
        if uid not in studies:
            patient = instance.attributes.get("PatientID")
            studies[uid] = StudyTally(
                study_instance_uid=uid, patient_id=patient if isinstance(patient, str) else ""
            )
        studies[uid].sop_classes[instance.sop_class_uid] += 1

    def association_ended(self, peer: Peer, *, released: bool) -> None:
        """Note that an association has ended: audit what it brought, and tell the ticker.

        If the peer released it, the index records that.
        """
        received = self._received.pop(peer.association, {})
        self.audit.received(peer, received.values())
        if released:
            try:
                self.index.association_released(peer.association)
            except DatabaseError as error:
                log.error("release_not_recorded association=%s error=%s", peer.association, error)
        notify(self.run_directory, "ticker")

    def close(self) -> None:
        """Remove the empty files that the spool has made in advance."""
        self.spool.close()
