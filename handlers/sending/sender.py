"""Sending: C-STORE of many files over one association, with a result for every file; and C-ECHO.

Files are sent as they are stored. An object in a native transfer syntax is re-encoded for a peer that accepts only
another native one. Pixel data are never compressed or decompressed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import UID
from pynetdicom import _config
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context

from handlers.dimse.statuses import meaning
from handlers.dimse.uids import VERIFICATION
from handlers.encoding.uids import NATIVE
from handlers.sending.association import (
    AssociationFailed,
    NothingAccepted,
    Timeouts,
    close_association,
    open_association,
)
from handlers.settings import Destination

log = logging.getLogger("overread.sender")

# pynetdicom then sends the bytes of a file without decoding and encoding them.
_config.STORE_SEND_CHUNKED_DATASET = True

MAXIMUM_CONTEXTS = 128
"""Identifiers of contexts are the odd numbers from 1 to 255 (PS3.8 section 9.3.2.2)."""
MAXIMUM_LOST_IN_A_ROW = 2
"""After this many lost associations without a delivery in between, the peer is the problem, not the object."""
ABSTRACT_SYNTAX_NOT_SUPPORTED = 3
"""Result of a presentation context (PS3.8 table 9-18)."""


@dataclass(frozen=True, kw_only=True)
class FileToSend:
    """A DICOM file and the UIDs needed to send it."""

    path: Path
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str


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
                association = open_association(
                    self.destination, self.calling_ae, self.timeouts, contexts_for(batch)
                )
            except NothingAccepted as failure:
                for file in batch:
                    yield _undelivered(file, str(failure), transient=False)
                del waiting[: len(batch)]
                continue
            except AssociationFailed as failure:
                for file in waiting:
                    yield _undelivered(
                        file, str(failure), transient=failure.transient, reached=not failure.transient
                    )
                return
            try:
                for file in batch:
                    result = _send_one(association, file, originator)
                    waiting.pop(0)
                    yield result
                    if result.delivered:
                        lost = 0
                    if result.status is None and result.transient:
                        # No answer: the peer may or may not have the file, and the association is unusable.
                        lost += 1
                        association.abort()
                        break
            finally:
                close_association(association)
            if lost >= MAXIMUM_LOST_IN_A_ROW:
                for file in waiting:
                    yield _undelivered(file, "the association was lost", transient=True, reached=False)
                return


def echo(destination: Destination, calling_ae: str, timeouts: Timeouts | None = None) -> EchoResult:
    """Send a C-ECHO to a peer."""
    started = time.perf_counter()
    try:
        association = open_association(
            destination, calling_ae, timeouts or Timeouts(), [build_context(VERIFICATION)]
        )
    except AssociationFailed as failure:
        return EchoResult(ok=False, reason=str(failure), milliseconds=0.0)
    try:
        if not association.accepted_contexts:
            return EchoResult(ok=False, reason="it does not offer verification", milliseconds=0.0)
        response = association.send_c_echo()
    finally:
        close_association(association)
    milliseconds = 1000 * (time.perf_counter() - started)
    if "Status" not in response:
        return EchoResult(ok=False, reason="no answer to the C-ECHO", milliseconds=milliseconds)
    if response.Status != 0:
        return EchoResult(ok=False, reason=f"status {response.Status:04X}", milliseconds=milliseconds)
    return EchoResult(ok=True, reason="", milliseconds=milliseconds)


def contexts_for(files: Sequence[FileToSend]) -> list[PresentationContext]:
    """Presentation contexts for files: their own transfer syntaxes, and for native ones the other native ones too."""
    contexts: list[PresentationContext] = []
    for sop_class, syntax in dict.fromkeys((f.sop_class_uid, f.transfer_syntax_uid) for f in files):
        contexts.append(build_context(sop_class, syntax))
        others: list[str | UID] = [native for native in NATIVE if native != syntax]
        if syntax in NATIVE:
            contexts.append(build_context(sop_class, others))
    return contexts


def _first_batch(files: Sequence[FileToSend]) -> list[FileToSend]:
    """The first files, as many as the presentation contexts of one association allow."""
    kinds: set[tuple[str, str]] = set()
    batch: list[FileToSend] = []
    for file in files:
        kinds.add((file.sop_class_uid, file.transfer_syntax_uid))
        if 2 * len(kinds) > MAXIMUM_CONTEXTS:
            break
        batch.append(file)
    return batch


def _send_one(association: Association, file: FileToSend, originator: MoveOriginator | None) -> SendResult:
    accepted = {(str(c.abstract_syntax), str(c.transfer_syntax[0])) for c in association.accepted_contexts}
    as_stored = (file.sop_class_uid, file.transfer_syntax_uid) in accepted
    native = file.transfer_syntax_uid in NATIVE and any(
        (file.sop_class_uid, syntax) in accepted for syntax in NATIVE
    )
    if not as_stored and not native:
        known = any(
            c.abstract_syntax == file.sop_class_uid and c.result != ABSTRACT_SYNTAX_NOT_SUPPORTED
            for c in association.rejected_contexts
        )
        reason = "transfer syntax" if known else "SOP class"
        return _undelivered(file, f"the peer does not accept the {reason}", transient=False)
    try:
        response = association.send_c_store(
            file.path if as_stored else dcmread(file.path),
            originator_aet=originator.ae_title if originator else None,
            originator_id=originator.message_id if originator else None,
        )
    except OSError as error:
        return _undelivered(file, f"the file cannot be read: {error.strerror}", transient=True)
    except (InvalidDicomError, ValueError, AttributeError) as error:
        # The file cannot be parsed or re-encoded; sending it again cannot help.
        log.warning("file_not_sent error=%s", type(error).__name__)
        return _undelivered(file, f"the file cannot be sent ({type(error).__name__})", transient=False)
    except RuntimeError:
        return _undelivered(file, "the association was lost", transient=True, reached=False)
    if "Status" not in response:
        reason = "the peer did not answer in time or broke the association off"
        return _undelivered(file, reason, transient=True, reached=False)
    answer = meaning(response.Status)
    return SendResult(
        file=file,
        delivered=answer.delivered,
        transient=answer.transient,
        reason="" if response.Status == 0 else answer.text,
        status=int(response.Status),
    )


def _undelivered(file: FileToSend, reason: str, *, transient: bool, reached: bool = True) -> SendResult:
    return SendResult(
        file=file, delivered=False, transient=transient, reason=reason, status=None, reached=reached
    )
