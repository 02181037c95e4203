"""Storage commitment over associations that we open: asking a destination, and reporting to a peer that asked us.

References: PS3.4 sections J.3.2 (request) and J.3.3 (report, with the SCP role proposed).
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
"""How long the association of a request stays open for a report that comes over it."""
LOOK_SECONDS = 0.1
LOST = "the association was lost"


@dataclass(frozen=True, kw_only=True)
class CommitmentAnswer:
    """Whether the peer took a request or report, and if not why."""

    accepted: bool
    reason: str


@contextmanager
def _association(
    destination: Destination,
    calling_ae: str,
    timeouts: Timeouts | None,
    *,
    roles: Sequence[SCP_SCU_RoleSelectionNegotiation] = (),
    handlers: Sequence[EventHandlerType] = (),
) -> Iterator[Association]:
    """An association for storage commitment alone; raises AssociationFailed."""
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
    """Whether a destination accepts associations for storage commitment; nothing is asked for."""
    try:
        with _association(destination, calling_ae, timeouts):
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
    """Ask a destination to take responsibility for results.

    A report over the same association goes to ``take``, which says whether it was recorded; we wait for one a
    few seconds, or until ``busy``. One over an association of the destination's comes to the receiver instead.
    """
    arrived = threading.Event()

    def report(event: Event) -> tuple[int, Dataset | None]:
        try:
            recorded = take(read_report(event.event_information))
        except CommitmentError as error:
            log.warning("commitment_report_refused destination=%s reason=%s", destination.name, error)
            return INVALID_ARGUMENT, None
        except Exception as error:
            # pynetdicom would log the text of what decoding foreign bytes raises; it may quote them.
            log.error(
                "commitment_report_failed destination=%s error=%s", destination.name, type(error).__name__
            )
            return PROCESSING_FAILURE, None
        arrived.set()
        return (0x0000 if recorded else PROCESSING_FAILURE), None

    handlers: list[EventHandlerType] = [(evt.EVT_N_EVENT_REPORT, report)]
    try:
        with _association(destination, calling_ae, timeouts, handlers=handlers) as association:
            response, _ = association.send_n_action(
                write_request(request.transaction_uid, request.references),
                REQUEST_COMMITMENT,
                STORAGE_COMMITMENT,
                STORAGE_COMMITMENT_INSTANCE,
            )
            answer = _answer(response)
            deadline = time.monotonic() + REPORT_SECONDS
            while (
                answer.accepted
                and association.is_established
                and time.monotonic() < deadline
                and not busy()
                and not arrived.wait(LOOK_SECONDS)
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
    """Tell a peer what became of its request, over an association of our own."""
    role = build_role(STORAGE_COMMITMENT, scp_role=True)
    try:
        with _association(destination, calling_ae, timeouts, roles=[role]) as association:
            event_type, dataset = write_report(report, calling_ae)
            response, _ = association.send_n_event_report(
                dataset, event_type, STORAGE_COMMITMENT, STORAGE_COMMITMENT_INSTANCE
            )
            return _answer(response)
    except AssociationFailed as failure:
        return CommitmentAnswer(accepted=False, reason=str(failure))
    except (RuntimeError, ValueError):
        return CommitmentAnswer(accepted=False, reason=LOST)


def _answer(response: Dataset) -> CommitmentAnswer:
    if "Status" not in response:
        return CommitmentAnswer(accepted=False, reason="the peer did not answer in time")
    status = int(response.Status)
    return CommitmentAnswer(accepted=status == 0, reason="" if status == 0 else f"status {status:04X}")
