"""The state machines of the database as literal data; constraints, texts and docs come from it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class StudyState(StrEnum):
    """Whether more instances of a study are awaited."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    """Its jobs are planned; instances that come later open it again."""


class StudyEvent(StrEnum):
    """What happens to a study; an instance of one that is being received changes no state."""

    COMPLETE = "complete"
    REOPEN = "late instance"
    REPROCESS = "reprocess"


class JobState(StrEnum):
    """Where a job is on its way."""

    QUEUED = "queued"
    """Ready for a worker."""
    RUNNING = "running"
    """Held by a worker under a lease."""
    WAITING = "waiting"
    """Its model is absent; it is queued again once the model is there."""
    SUCCEEDED = "succeeded"
    """Its results are in the outbox."""
    SKIPPED = "skipped"
    """Nothing to do for it, for the reason that it carries."""
    FAILED = "failed"
    """Given up, for the reason that it carries; kept, listed and retryable."""
    CANCELLED = "cancelled"
    """Stopped by a person."""
    SUPERSEDED = "superseded"
    """A later revision of the study took its place."""


class JobEvent(StrEnum):
    """What happens to a job."""

    CLAIM = "claim"
    SUCCEED = "succeed"
    SKIP = "skip"
    FAIL = "fail"
    RETRY_LATER = "retry later"
    WAIT = "wait"
    WAKE = "wake"
    LEASE_LOST = "lease lost"
    CANCEL = "cancel"
    RETRY = "retry"
    SUPERSEDE = "supersede"


class DeliveryState(StrEnum):
    """Where the delivery of one result to one destination is on its way."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    """The destination answered success or a warning."""
    COMMITTED = "committed"
    """The destination took responsibility by storage commitment."""
    FAILED = "failed"
    """Refused for good, for the reason that it carries; retryable by hand."""


class DeliveryEvent(StrEnum):
    """What happens to a delivery."""

    CLAIM = "claim"
    SENT = "sent"
    COMMIT = "commit"
    RETRY_LATER = "retry later"
    FAIL = "fail"
    LEASE_LOST = "lease lost"
    RETRY = "retry"


class ReportState(StrEnum):
    """Where our answer to a request for storage commitment is on its way."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    """The peer does not take it; it can ask again."""


class ReportEvent(StrEnum):
    """What happens to an answer to a request for storage commitment."""

    SENT = "sent"
    FAIL = "fail"
    ASKED_AGAIN = "asked again"


STUDY_TRANSITIONS: Mapping[tuple[StudyState, StudyEvent], StudyState] = {
    (StudyState.RECEIVING, StudyEvent.COMPLETE): StudyState.COMPLETE,
    (StudyState.COMPLETE, StudyEvent.REOPEN): StudyState.RECEIVING,
    (StudyState.COMPLETE, StudyEvent.REPROCESS): StudyState.COMPLETE,
}

JOB_TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = {
    (JobState.QUEUED, JobEvent.CLAIM): JobState.RUNNING,
    (JobState.QUEUED, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.QUEUED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.RUNNING, JobEvent.SUCCEED): JobState.SUCCEEDED,
    (JobState.RUNNING, JobEvent.SKIP): JobState.SKIPPED,
    (JobState.RUNNING, JobEvent.FAIL): JobState.FAILED,
    (JobState.RUNNING, JobEvent.RETRY_LATER): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.WAIT): JobState.WAITING,
    (JobState.RUNNING, JobEvent.LEASE_LOST): JobState.QUEUED,
    (JobState.RUNNING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.RUNNING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.WAITING, JobEvent.WAKE): JobState.QUEUED,
    (JobState.WAITING, JobEvent.RETRY): JobState.QUEUED,
    (JobState.WAITING, JobEvent.CANCEL): JobState.CANCELLED,
    (JobState.WAITING, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.FAILED, JobEvent.RETRY): JobState.QUEUED,
    (JobState.FAILED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.CANCELLED, JobEvent.RETRY): JobState.QUEUED,
    (JobState.CANCELLED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.SKIPPED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
    (JobState.SUCCEEDED, JobEvent.SUPERSEDE): JobState.SUPERSEDED,
}

DELIVERY_TRANSITIONS: Mapping[tuple[DeliveryState, DeliveryEvent], DeliveryState] = {
    (DeliveryState.PENDING, DeliveryEvent.CLAIM): DeliveryState.SENDING,
    (DeliveryState.SENDING, DeliveryEvent.SENT): DeliveryState.SENT,
    (DeliveryState.SENDING, DeliveryEvent.RETRY_LATER): DeliveryState.PENDING,
    (DeliveryState.SENDING, DeliveryEvent.FAIL): DeliveryState.FAILED,
    (DeliveryState.SENDING, DeliveryEvent.LEASE_LOST): DeliveryState.PENDING,
    (DeliveryState.SENT, DeliveryEvent.COMMIT): DeliveryState.COMMITTED,
    (DeliveryState.SENT, DeliveryEvent.RETRY_LATER): DeliveryState.PENDING,
    (DeliveryState.SENT, DeliveryEvent.FAIL): DeliveryState.FAILED,
    (DeliveryState.FAILED, DeliveryEvent.RETRY): DeliveryState.PENDING,
}

REPORT_TRANSITIONS: Mapping[tuple[ReportState, ReportEvent], ReportState] = {
    (ReportState.PENDING, ReportEvent.SENT): ReportState.SENT,
    (ReportState.PENDING, ReportEvent.FAIL): ReportState.FAILED,
    (ReportState.SENT, ReportEvent.ASKED_AGAIN): ReportState.PENDING,
    (ReportState.FAILED, ReportEvent.ASKED_AGAIN): ReportState.PENDING,
}


def states_before(event: JobEvent) -> frozenset[JobState]:
    """The states in which a job may meet this event."""
    return frozenset(was for was, what in JOB_TRANSITIONS if what == event)


def constraint(states: type[StrEnum]) -> str:
    """The CHECK constraint on a ``state`` column."""
    return "state IN (" + ", ".join(f"'{state}'" for state in states) + ")"


def diagram() -> str:
    """The machines as Markdown with Mermaid diagrams: the text of docs/states.md."""
    parts = ["# States", "", "Generated from `db/states.py`.", ""]
    for title, states, transitions in (
        ("Studies", StudyState, STUDY_TRANSITIONS),
        ("Jobs", JobState, JOB_TRANSITIONS),
        ("Deliveries", DeliveryState, DELIVERY_TRANSITIONS),
        ("Commitment reports", ReportState, REPORT_TRANSITIONS),
    ):
        parts += [f"## {title}", "", "```mermaid", "stateDiagram-v2"]
        parts += [f"    {was} --> {becomes}: {event}" for (was, event), becomes in transitions.items()]
        parts += ["```", "", "State | may become", "--- | ---"]
        for state in states:
            after = dict.fromkeys(str(b) for (was, _), b in transitions.items() if was == state)
            parts.append(f"{state} | {', '.join(after) or 'nothing else'}")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    Path("docs/states.md").write_text(diagram())
