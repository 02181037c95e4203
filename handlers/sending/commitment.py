"""Storage commitment over associations that we open: requests to destinations, and reports to peers that asked us.

References: PS3.4 sections J.3.2 (request) and J.3.3 (report, which needs the SCP role to be proposed).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pynetdicom import evt
from pynetdicom.association import Association
from pynetdicom.events import Event, EventHandlerType
from pynetdicom.pdu_primitives import SCP_SCU_RoleSelectionNegotiation
from pynetdicom.presentation import build_context, build_role

from db.records import CommitmentRequest
from handlers.dimse.commitment import (
    INVALID_ARGUMENT,
    PROCESSING_FAILURE,
    REQUEST_COMMITMENT,
    CommitmentError,
    Report,
    read_report,
    write_report,
    write_request,
)
from handlers.dimse.uids import STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
from handlers.encoding.uids import NATIVE
from handlers.sending.association import AssociationFailed, Timeouts, close_association, open_association
from handlers.settings import Destination

log = logging.getLogger("overread.commitment")

REPORT_SECONDS = 5.0
"""How long the association of a request stays open for a report over the same association."""
POLL_SECONDS = 0.02
"""How soon the wait for a report ends when there is other work."""
LOST = "the association was lost"


@dataclass(frozen=True, kw_only=True)
class CommitmentAnswer:
    """Whether the peer accepted a request or report, and if not, why."""

    accepted: bool
    reason: str


@contextmanager
def _commitment_association(
    destination: Destination,
    calling_ae: str,
    timeouts: Timeouts | None,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Iterator[Association]:
    """An association for storage commitment only.

    Raises:
        AssociationFailed: there is no association; the message says why.
    """
    association = open_association(
        destination,
        calling_ae,
        timeouts or Timeouts(),
        [build_context(STORAGE_COMMITMENT, list(NATIVE))],
        roles=roles,
        handlers=handlers,
    )
    try:
        yield association
    finally:
        close_association(association)


def offers_commitment(
    destination: Destination, calling_ae: str, timeouts: Timeouts | None = None
) -> CommitmentAnswer:
    """Whether a destination accepts associations for storage commitment; no request is sent."""
    try:
        with _commitment_association(destination, calling_ae, timeouts):
            return CommitmentAnswer(accepted=True, reason="")
    except AssociationFailed as failure:
        return CommitmentAnswer(accepted=False, reason=str(failure))


def request_commitment(
    destination: Destination,
    calling_ae: str,
    request: CommitmentRequest,
    take: Callable[[Report], bool],
    busy: Callable[[], bool],
    timeouts: Timeouts | None = None,
) -> CommitmentAnswer:
    """Ask a destination to commit to storing results.

    A report may come over this association. We wait for one for ``REPORT_SECONDS``, or until ``busy`` returns True.
    Later reports come over an association that the destination opens to a receiver.

    Args:
        destination: the peer.
        calling_ae: our AE title.
        request: the transaction.
        take: called with a report; returns whether the report was recorded.
        busy: whether there is other work to do.
        timeouts: how long to wait for the peer.
    """
    arrived = threading.Event()

    def report(event: Event) -> tuple[int, Dataset | None]:
        try:
            recorded = take(read_report(event.event_information))
        except CommitmentError as error:
            log.warning("commitment_report_refused destination=%s reason=%s", destination.name, error)
            return INVALID_ARGUMENT, None
        except Exception as error:
            # pynetdicom would log the message of the exception, which may quote values.
            log.error(
                "commitment_report_failed destination=%s error=%s", destination.name, type(error).__name__
            )
            return PROCESSING_FAILURE, None
        arrived.set()
        return (0x0000 if recorded else PROCESSING_FAILURE), None

    handlers: list[EventHandlerType] = [(evt.EVT_N_EVENT_REPORT, report)]
    try:
        with _commitment_association(destination, calling_ae, timeouts, handlers=handlers) as association:
            response, _ = association.send_n_action(
                write_request(request.transaction_uid, request.references),
                REQUEST_COMMITMENT,
                STORAGE_COMMITMENT,
                STORAGE_COMMITMENT_INSTANCE,
            )
            answer = _answer_of(response)
            deadline = time.monotonic() + REPORT_SECONDS
            while (
                answer.accepted
                and association.is_established
                and time.monotonic() < deadline
                and not busy()
                and not arrived.wait(POLL_SECONDS)
            ):
                pass
            return answer
    except AssociationFailed as failure:
        return CommitmentAnswer(accepted=False, reason=str(failure))
    except (RuntimeError, ValueError):
        return CommitmentAnswer(accepted=False, reason=LOST)


def send_report(
    destination: Destination, calling_ae: str, report: Report, timeouts: Timeouts | None = None
) -> CommitmentAnswer:
    """Report the outcome of a peer's request, over an association that we open."""
    role = build_role(STORAGE_COMMITMENT, scp_role=True)
    try:
        with _commitment_association(destination, calling_ae, timeouts, roles=[role]) as association:
            event_type, dataset = write_report(report, calling_ae)
            response, _ = association.send_n_event_report(
                dataset, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
            return _answer_of(response)
    except AssociationFailed as failure:
        return CommitmentAnswer(accepted=False, reason=str(failure))
    except (RuntimeError, ValueError):
        return CommitmentAnswer(accepted=False, reason=LOST)


def _answer_of(response: Dataset) -> CommitmentAnswer:
    if "Status" not in response:
        return CommitmentAnswer(accepted=False, reason="the peer did not answer in time")
    status = int(response.Status)
    return CommitmentAnswer(accepted=status == 0, reason="" if status == 0 else f"status {status:04X}")
