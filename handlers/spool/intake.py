"""Taking instances in: bytes go to the spool and the index, and are durable in both before anybody says so.

It knows nothing of the way by which they come: C-STORE, or another one.
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
    """What a peer says an instance is, before its dataset comes."""

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


class Cause(Enum):
    """Why an instance is refused."""

    OUT_OF_RESOURCES = "out of resources"
    """Disk or database cannot take it now; it may be sent again."""
    DOES_NOT_MATCH = "does not match"
    """The dataset is another instance than the one announced, or lacks what names it."""
    NOT_UNDERSTOOD = "not understood"
    """The bytes are no dataset of that transfer syntax."""


@dataclass(frozen=True, kw_only=True)
class Refused:
    """Nothing is kept of an instance, or nobody knows; ``reason`` has no patient data."""

    cause: Cause
    reason: str


class _NotTaken(Exception):
    """Ends the taking of one instance."""

    def __init__(self, cause: Cause, reason: str) -> None:
        super().__init__(reason)
        self.cause = cause


class Intake:
    """The one way into spool and index, for all peers of one process. Thread-safe."""

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
        """What came, by the association that brings it and by study."""

    def take(self, announced: Announced, dataset: Iterable[memoryview], peer: Peer) -> StoreVerdict | Refused:
        """Take one instance; with a verdict it is durable, and known under its UID unless it is a conflict.

        Args:
            announced: what the instance is said to be; its UIDs are well formed.
            dataset: its bytes in fragments, each of which is valid until the next. Whatever the iterator raises
                passes through, and nothing is kept then.
            peer: who sends it.
        """
        try:
            return self._take(announced, dataset, peer)
        except _NotTaken as refused:
            return Refused(cause=refused.cause, reason=str(refused))

    def _take(self, announced: Announced, dataset: Iterable[memoryview], peer: Peer) -> StoreVerdict:
        file: SpoolFile | None = None
        kept = False
        try:
            if self.disk.full():
                raise _NotTaken(Cause.OUT_OF_RESOURCES, "the disk is nearly full")
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
            attributes = self._understand(file, announced)
            instance = self._instance(announced, file, attributes, peer)
            verdict = self._group_commit.commit(instance, file)
            kept = verdict is not StoreVerdict.DUPLICATE
            self._count(instance)
            if verdict is StoreVerdict.CONFLICT:
                log.warning(
                    "quarantined association=%s reason=%s", peer.association, "same UID, other content"
                )
            return verdict
        except OSError as error:
            log.error("spool_failed association=%s error=%s", peer.association, error.strerror)
            raise _NotTaken(Cause.OUT_OF_RESOURCES, "the spool cannot be written") from error
        except OutcomeUnknown as error:
            # The row may be there, so the file stays; the start-up check moves it away if it is not.
            kept = True
            raise _NotTaken(Cause.OUT_OF_RESOURCES, "the index broke off") from error
        except DatabaseError as error:
            raise _NotTaken(Cause.OUT_OF_RESOURCES, "the index cannot be written") from error
        finally:
            if file is not None and not kept:
                file.discard()

    def _understand(self, file: SpoolFile, announced: Announced) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        complaint = None
        with file.dataset() as data:
            try:
                attributes = scan(data, announced.transfer_syntax_uid, self.settings.attributes)
            except ScanError as error:
                # Not raised on from here: its traceback would hold the mapped file open.
                complaint = str(error)
        if complaint is not None:
            raise _NotTaken(Cause.NOT_UNDERSTOOD, complaint)
        for keyword in REQUIRED_UIDS:
            value = attributes.get(keyword)
            if not isinstance(value, str) or not is_uid(value):
                raise _NotTaken(Cause.DOES_NOT_MATCH, f"{keyword} is missing or malformed")
        found = (attributes["SOPInstanceUID"], attributes["SOPClassUID"])
        if found != (announced.sop_instance_uid, announced.sop_class_uid):
            raise _NotTaken(Cause.DOES_NOT_MATCH, "the dataset is another SOP class or instance")
        return attributes

    def _instance(
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

    def _count(self, instance: NewInstance) -> None:
        studies = self._received.setdefault(instance.association, {})
        uid = instance.study_instance_uid
        if uid not in studies:
            patient = instance.attributes.get("PatientID")
            studies[uid] = StudyTally(
                study_instance_uid=uid, patient_id=patient if isinstance(patient, str) else ""
            )
        studies[uid].sop_classes[instance.sop_class_uid] += 1

    def end(self, peer: Peer, *, released: bool) -> None:
        """No more comes by a peer's association: the ticker learns of it, and whether it was ended in order."""
        received = self._received.pop(peer.association, {})
        self.audit.received(peer, received.values())
        if released:
            try:
                self.index.association_released(peer.association)
            except DatabaseError as error:
                log.error("release_not_recorded association=%s error=%s", peer.association, error)
        notify(self.run_directory, "ticker")

    def close(self) -> None:
        """Give back what the spool holds ready."""
        self.spool.close()
