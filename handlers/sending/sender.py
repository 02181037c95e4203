"""Sending: C-STORE of many files over one association, with a result for every file; and C-ECHO.

Files are sent as they are stored. An object in a native transfer syntax is re-encoded for a peer that accepts only
another native one. Pixel data are never compressed or decompressed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom.errors import InvalidDicomError

from handlers.dimse.commands import C_ECHO_RQ, C_ECHO_RSP, C_STORE_RQ, C_STORE_RSP, WITH_DATASET, Command
from handlers.dimse.statuses import meaning
from handlers.dimse.uids import VERIFICATION
from handlers.encoding.uids import IMPLICIT_LITTLE, NATIVE
from handlers.errors import NetworkError, ScanError
from handlers.sending.association import AssociationFailed, NothingAccepted, Timeouts
from handlers.sending.requestor import RequestedAssociation, open_storage_association
from handlers.sending.requests import encoded_dataset, request
from handlers.settings import Destination
from handlers.upper_layer.association import PresentationContext
from handlers.upper_layer.pdu import ProposedContext

log = logging.getLogger("overread.sender")

Kind = tuple[str, str]
"""SOP class and transfer syntax of a file."""
MAXIMUM_KINDS = 64
"""Two contexts each: their identifiers are the odd numbers from 1 to 255 (PS3.8 section 9.3.2.2)."""
LOST = "the association was lost"
MAXIMUM_LOST_IN_A_ROW = 2
"""After this many lost associations without a delivery in between, the peer is the problem, not the object."""
MEDIUM_PRIORITY = 0
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
"""Result of a presentation context (PS3.8 table 9-18)."""


@dataclass(frozen=True, kw_only=True)
class FileToSend:
    """A DICOM file and the UIDs needed to send it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str

    @property
    def kind(self) -> Kind:
        """What presentation contexts are about."""
        return self.sop_class_uid, self.transfer_syntax_uid


@dataclass(frozen=True, kw_only=True)
class MoveOriginator:
    """The peer that asked for the objects by C-MOVE, and the ID of its message."""

    ae_title: str
    message_id: int


@dataclass(frozen=True, kw_only=True)
class SendResult:
    """The outcome for one file. If it was not delivered, ``transient`` says whether a retry can help."""

    file: FileToSend
    delivered: bool
    transient: bool
    reason: str
    status: int | None
    """The status of the peer's response; None if there was none."""
    reached: bool = True
    """False if the peer could not be reached, or did not answer."""


@dataclass(frozen=True, kw_only=True)
class EchoResult:
    """Whether a peer answers a C-ECHO, how fast, and if not, why."""

    ok: bool
    reason: str
    milliseconds: float


class Sender:
    """Sends files to one destination. For one thread at a time."""

    def __init__(self, destination: Destination, calling_ae: str, timeouts: Timeouts | None = None) -> None:
        self.destination = destination
        self.calling_ae = calling_ae
        self.timeouts = timeouts or Timeouts()

    def send(
        self, files: Sequence[FileToSend], originator: MoveOriginator | None = None
    ) -> Iterator[SendResult]:
        """Send files in order and yield one result for each.

        If an association breaks, the file being sent fails and the rest are sent over a new one. After
        ``MAXIMUM_LOST_IN_A_ROW`` associations lost without a delivery the rest fail too.
        """
        waiting = list(files)
        lost = 0
        while waiting:
            batch = _first_batch(waiting)
            try:
                association = open_storage_association(
                    self.destination, self.calling_ae, self.timeouts, contexts_for(kinds_of(batch))
                )
            except NothingAccepted as failure:
                for file in batch:
                    yield undelivered(file, str(failure), transient=False)
                del waiting[: len(batch)]
                continue
            except AssociationFailed as failure:
                for file in waiting:
                    yield undelivered(
                        file, str(failure), transient=failure.transient, reached=not failure.transient
                    )
                return
            try:
                for file in batch:
                    result = send_file(association, file, originator)
                    waiting.pop(0)
                    yield result
                    if result.delivered:
                        lost = 0
                    if not association.established:
                        lost += not result.reached
                        break
            finally:
                association.release()
            if lost >= MAXIMUM_LOST_IN_A_ROW:
                for file in waiting:
                    yield undelivered(file, LOST, transient=True, reached=False)
                return


def echo(destination: Destination, calling_ae: str, timeouts: Timeouts | None = None) -> EchoResult:
    """Send a C-ECHO to a peer."""
    started = time.perf_counter()
    proposed = ProposedContext(
        identifier=1, abstract_syntax=VERIFICATION, transfer_syntaxes=(IMPLICIT_LITTLE,)
    )
    try:
        association = open_storage_association(destination, calling_ae, timeouts or Timeouts(), [proposed])
    except NothingAccepted:
        return EchoResult(ok=False, reason="it does not offer verification", milliseconds=0.0)
    except AssociationFailed as failure:
        return EchoResult(ok=False, reason=str(failure), milliseconds=0.0)
    try:
        command = Command(
            command_field=C_ECHO_RQ,
            message_id=association.next_message_id(),
            affected_sop_class_uid=VERIFICATION,
        )
        status = request(association, proposed.identifier, command, C_ECHO_RSP)
        reason = "" if status == 0 else f"status {status:04X}"
    except NetworkError:
        association.break_off()
        reason = "no answer to the C-ECHO"
    finally:
        association.release()
    return EchoResult(ok=not reason, reason=reason, milliseconds=1000 * (time.perf_counter() - started))


def kinds_of(files: Iterable[FileToSend]) -> list[Kind]:
    """The kinds of files, each once, in order."""
    return list(dict.fromkeys(file.kind for file in files))


def contexts_for(kinds: Sequence[Kind]) -> list[ProposedContext]:
    """Presentation contexts for kinds of files, at most ``MAXIMUM_KINDS``.

    They are the files' own transfer syntaxes, and for native ones the other native ones too.
    """
    contexts: list[ProposedContext] = []
    for sop_class, syntax in kinds:
        others = tuple(native for native in NATIVE if native != syntax)
        for syntaxes in ((syntax,), *((others,) if syntax in NATIVE else ())):
            contexts.append(
                ProposedContext(
                    identifier=2 * len(contexts) + 1, abstract_syntax=sop_class, transfer_syntaxes=syntaxes
                )
            )
    return contexts


def _first_batch(files: Sequence[FileToSend]) -> list[FileToSend]:
    """The first files, as many as the presentation contexts of one association allow."""
    kinds: set[Kind] = set()
    batch: list[FileToSend] = []
    for file in files:
        kinds.add(file.kind)
        if len(kinds) > MAXIMUM_KINDS:
            break
        batch.append(file)
    return batch


def send_file(
    association: RequestedAssociation, file: FileToSend, originator: MoveOriginator | None = None
) -> SendResult:
    """Send one file over an association, which is no longer established if it was lost or had to be aborted."""
    context = _context_for(association, file)
    if context is None:
        refusals = association.refused.get(file.sop_class_uid, frozenset())
        known = bool(refusals - {ABSTRACT_SYNTAX_NOT_SUPPORTED})
        reason = "transfer syntax" if known else "SOP class"
        return undelivered(file, f"the peer does not accept the {reason}", transient=False)
    command = Command(
        command_field=C_STORE_RQ,
        message_id=association.next_message_id(),
        affected_sop_class_uid=file.sop_class_uid,
        priority=MEDIUM_PRIORITY,
        dataset_type=WITH_DATASET,
        affected_sop_instance_uid=file.sop_instance_uid,
        move_originator_ae=originator.ae_title if originator else None,
        move_originator_message_id=originator.message_id if originator else None,
    )
    begun = False
    try:
        with file.path.open("rb") as opened:
            data = encoded_dataset(opened, file.transfer_syntax_uid, context.transfer_syntax)
            begun = True
            status = request(association, context.identifier, command, C_STORE_RSP, data)
    except NetworkError as error:
        association.break_off()
        # The peer may or may not have the file.
        return undelivered(file, f"{LOST}: {error}", transient=True, reached=False)
    except OSError as error:
        if begun:  # the peer waits for the rest of the dataset
            association.break_off()
        return undelivered(file, f"the file cannot be read: {error.strerror}", transient=True)
    except (InvalidDicomError, ScanError, ValueError, AttributeError) as error:
        # The file cannot be parsed or re-encoded; sending it again cannot help.
        log.warning("file_not_sent error=%s", type(error).__name__)
        return undelivered(file, f"the file cannot be sent ({type(error).__name__})", transient=False)
    answer = meaning(status)
    return SendResult(
        file=file,
        delivered=answer.delivered,
        transient=answer.transient,
        reason="" if status == 0 else answer.text,
        status=status,
    )


def _context_for(association: RequestedAssociation, file: FileToSend) -> PresentationContext | None:
    """The context to send a file with: its own transfer syntax, or else, for a native one, another native one."""
    accepted = {(c.abstract_syntax, c.transfer_syntax): c for c in association.contexts.values()}
    wanted = [file.transfer_syntax_uid, *(NATIVE if file.transfer_syntax_uid in NATIVE else ())]
    found = (accepted.get((file.sop_class_uid, syntax)) for syntax in wanted)
    return next((context for context in found if context is not None), None)


def undelivered(file: FileToSend, reason: str, *, transient: bool, reached: bool = True) -> SendResult:
    """The result of a file that was not sent, or not answered."""
    return SendResult(
        file=file, delivered=False, transient=transient, reason=reason, status=None, reached=reached
    )
