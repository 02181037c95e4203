"""The storage service: a C-STORE's bytes go to the spool and the index, and only then is it acknowledged.

References: PS3.4 annex B (storage service class; statuses in table B.2-1), PS3.7 section 9.1.1.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path

from db.database import Database
from db.errors import DatabaseError, OutcomeUnknown
from db.index import Index
from db.records import NewInstance, StoreVerdict
from db.wakeup import notify
from handlers.audit.trail import (
    DESTINATION_ROLE,
    SOURCE_ROLE,
    AuditTrail,
    Event,
    StudyTally,
    ourselves,
    peer_of,
)
from handlers.dimse.commands import C_STORE_RSP, Command
from handlers.dimse.uids import is_uid
from handlers.errors import RequestRefused, ScanError
from handlers.settings import ReceiverSettings
from handlers.spool.disk import DiskWatch
from handlers.spool.files import Spool, SpoolFile, file_head
from handlers.spool.group_commit import Committer
from handlers.spool.scan import AttributeValue, scan
from handlers.upper_layer.association import Association, Message

log = logging.getLogger("overread.storage")

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DATASET_DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000
INVALID_INSTANCE = 0x0117
SOP_CLASS_NOT_SUPPORTED = 0x0122
REQUIRED_UIDS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")


class Storage:
    """The storage service of one receiver process. Thread-safe."""

    def __init__(
        self,
        database: Database,
        settings: ReceiverSettings,
        run_directory: Path,
        audit: AuditTrail | None = None,
    ) -> None:
        self.settings = settings
        self.run_directory = run_directory
        self.index = Index(database)
        self.committer = Committer(self.index)
        self.audit = audit or AuditTrail(None)
        self._received: dict[str, dict[str, StudyTally]] = {}
        """What came, by the association that brings it and by study."""
        self.disk = DiskWatch(settings.spool, settings.reserve_bytes)
        self.spool = Spool(settings.spool)

    def __call__(self, association: Association, message: Message) -> None:
        """Answer one C-STORE-RQ."""
        status, comment = SUCCESS, None
        try:
            self._store(association, message)
        except RequestRefused as refused:
            status, comment = refused.status, str(refused)
            log.warning(
                "refused association=%s status=%04X reason=%s", association.identifier, status, comment
            )
        for _ in association.dataset():
            pass
        association.send(
            message.context.identifier,
            Command(
                command_field=C_STORE_RSP,
                message_id_responded_to=message.command.message_id,
                affected_sop_class_uid=message.command.affected_sop_class_uid,
                affected_sop_instance_uid=message.command.affected_sop_instance_uid,
                status=status,
                error_comment=comment,
            ),
        )

    def _store(self, association: Association, message: Message) -> None:
        command, context = message.command, message.context
        if not is_uid(command.affected_sop_instance_uid):
            raise RequestRefused(INVALID_INSTANCE, "Affected SOP Instance UID is missing or malformed")
        if command.affected_sop_class_uid != context.abstract_syntax:
            raise RequestRefused(SOP_CLASS_NOT_SUPPORTED, "SOP class differs from the presentation context")
        if not command.has_dataset:
            raise RequestRefused(CANNOT_UNDERSTAND, "the request has no dataset")
        head = file_head(
            str(command.affected_sop_class_uid),
            str(command.affected_sop_instance_uid),
            context.transfer_syntax,
            association.calling_ae,
        )
        file: SpoolFile | None = None
        kept = False
        try:
            if self.disk.full():
                raise RequestRefused(OUT_OF_RESOURCES, "the disk is nearly full")
            file = self.spool.file(head)
            for fragment in association.dataset():
                file.append(fragment)
            file.complete()
            attributes = self._understand(file, command, context.transfer_syntax)
            verdict = self.committer.commit(self._instance(association, message, file, attributes), file)
            kept = verdict is not StoreVerdict.DUPLICATE
            self._count(association, attributes)
            if verdict is StoreVerdict.CONFLICT:
                log.warning(
                    "quarantined association=%s reason=same UID, other content", association.identifier
                )
        except OSError as error:
            log.error("spool_failed association=%s error=%s", association.identifier, error.strerror)
            raise RequestRefused(OUT_OF_RESOURCES, "the spool cannot be written") from error
        except OutcomeUnknown as error:
            # The row may be there, so the file stays; the start-up check moves it away if it is not.
            kept = True
            raise RequestRefused(OUT_OF_RESOURCES, "the index broke off") from error
        except DatabaseError as error:
            raise RequestRefused(OUT_OF_RESOURCES, "the index cannot be written") from error
        finally:
            if file is not None and not kept:
                file.discard()

    def _understand(
        self, file: SpoolFile, command: Command, transfer_syntax: str
    ) -> dict[str, AttributeValue]:
        attributes: dict[str, AttributeValue] = {}
        complaint = None
        with file.dataset() as data:
            try:
                attributes = scan(data, transfer_syntax, self.settings.attributes)
            except ScanError as error:
                # Not raised on from here: its traceback would hold the mapped file open.
                complaint = str(error)
        if complaint is not None:
            raise RequestRefused(CANNOT_UNDERSTAND, complaint[:64])
        for keyword in REQUIRED_UIDS:
            value = attributes.get(keyword)
            if not isinstance(value, str) or not is_uid(value):
                raise RequestRefused(DATASET_DOES_NOT_MATCH, f"{keyword} is missing or malformed")
        if (
            attributes["SOPInstanceUID"] != command.affected_sop_instance_uid
            or attributes["SOPClassUID"] != command.affected_sop_class_uid
        ):
            raise RequestRefused(DATASET_DOES_NOT_MATCH, "the dataset is another SOP class or instance")
        return attributes

    def _instance(
        self,
        association: Association,
        message: Message,
        file: SpoolFile,
        attributes: dict[str, AttributeValue],
    ) -> NewInstance:
        return NewInstance(
            study_instance_uid=str(attributes["StudyInstanceUID"]),
            series_instance_uid=str(attributes["SeriesInstanceUID"]),
            sop_instance_uid=str(attributes["SOPInstanceUID"]),
            sop_class_uid=str(attributes["SOPClassUID"]),
            transfer_syntax_uid=message.context.transfer_syntax,
            path=f"{self.settings.spool.name}/{file.relative}",
            size=file.size,
            sha256=file.sha256,
            calling_ae=association.calling_ae,
            called_ae=association.called_ae,
            peer_address=association.peer_address,
            association=association.identifier,
            received_at=datetime.now(UTC),
            attributes=attributes,
        )

    def _count(self, association: Association, attributes: dict[str, AttributeValue]) -> None:
        studies = self._received.setdefault(association.identifier, {})
        uid = str(attributes["StudyInstanceUID"])
        if uid not in studies:
            patient = attributes.get("PatientID")
            studies[uid] = StudyTally(
                study_instance_uid=uid, patient_id=patient if isinstance(patient, str) else ""
            )
        studies[uid].sop_classes[str(attributes["SOPClassUID"])] += 1

    def association_ended(self, association: Association, *, released: bool) -> None:
        """Tell the ticker that instances have arrived, and whether no more come by this association."""
        received = self._received.pop(association.identifier, {})
        participants = (
            peer_of(association, SOURCE_ROLE),
            ourselves(association.called_ae, DESTINATION_ROLE),
        )
        self.audit.transferred(Event.INSTANCES_RECEIVED, participants, received.values())
        if released:
            try:
                self.index.association_released(association.identifier)
            except DatabaseError as error:
                log.error("release_not_recorded association=%s error=%s", association.identifier, error)
        notify(self.run_directory, "ticker")

    def close(self) -> None:
        self.spool.close()
