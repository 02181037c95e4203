"""The state machines as literal data. CHECK constraints and docs/states.md are generated from them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path


class StudyState(StrEnum):
    """Whether a study is still being received."""

    RECEIVING = "receiving"
    COMPLETE = "complete"
    """Its jobs are planned; a later instance opens it again."""


class StudyEvent(StrEnum):
    """What happens to a study. An instance that arrives while it is receiving is no event."""

    COMPLETE = "complete"
    REOPEN = "late instance"
    REPROCESS = "reprocess"


class JobState(StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    """Ready for a worker."""
    RUNNING = "running"
    """Held by a worker under a lease."""
    WAITING = "waiting"
    """Its model is missing; the job is queued again once the model is there."""
    SUCCEEDED = "succeeded"
    """Its results are in the outbox."""
    SKIPPED = "skipped"
    """There is nothing to analyse; its ``reason`` says why."""
    FAILED = "failed"
    """Given up; its ``reason`` says why. It stays listed and can be retried."""
    CANCELLED = "cancelled"
    """Stopped by a person."""
    SUPERSEDED = "superseded"
    """A later revision of the study replaced it."""


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
    """How far the delivery of one result to one destination is."""

    PENDING = "pending"
    SENDING = "sending"
    SENT = "sent"
    """The destination answered with success or a warning."""
    COMMITTED = "committed"
    """The destination took responsibility by storage commitment."""
    FAILED = "failed"
    """Refused for good; its ``reason`` says why. It can be retried by hand."""


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
    """How far our answer to a request for storage commitment is."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"
    """The peer did not accept it; it can ask again."""


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
    """The states of a job in which this event is possible."""
    return frozenset(state for state, possible in JOB_TRANSITIONS if possible == event)


def constraint(states: type[StrEnum]) -> str:
    """The condition of the CHECK constraint on a ``state`` column."""
    return "state IN (" + ", ".join(f"'{state}'" for state in states) + ")"


def diagram() -> str:
    """The text of docs/states.md: every machine as a Mermaid diagram and a table."""
    parts = ["# States", "", "Generated from `db/states.py`.", ""]
    for title, states, transitions in (
        ("Studies", StudyState, STUDY_TRANSITIONS),
        ("Jobs", JobState, JOB_TRANSITIONS),
        ("Deliveries", DeliveryState, DELIVERY_TRANSITIONS),
        ("Commitment reports", ReportState, REPORT_TRANSITIONS),
    ):
        parts += [f"## {title}", "", "```mermaid", "stateDiagram-v2"]
        parts += [f"    {before} --> {after}: {event}" for (before, event), after in transitions.items()]
        parts += ["```", "", "State | may become", "--- | ---"]
        for state in states:
            successors = dict.fromkeys(str(b) for (a, _), b in transitions.items() if a == state)
            parts.append(f"{state} | {', '.join(successors) or 'nothing else'}")
        parts.append("")
    return "\n".join(parts)


if __name__ == "__main__":
    Path("docs/states.md").write_text(diagram())
