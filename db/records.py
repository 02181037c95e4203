"""The values that cross the wall of the database room. Frozen, keyword-only, times aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.states import DeliveryState, JobState, StudyState

AttributeValue = str | list[str] | None
"""An attribute as DICOM wrote it: one value, several, or empty. Numbers stay text."""


class StoreVerdict(StrEnum):
    """What became of a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """The same UID with the same bytes is there; the caller deletes its file."""
    CONFLICT = "conflict"
    """The same UID with other bytes is there; the new file is quarantined."""


@dataclass(frozen=True, kw_only=True)
class NewInstance:
    """An instance whose file is synced in the spool; ``path`` is relative to the data folder."""

    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size: int
    sha256: str
    calling_ae: str
    called_ae: str
    peer_address: str
    association: str
    received_at: datetime
    attributes: dict[str, AttributeValue]

    def __post_init__(self) -> None:
        if self.received_at.tzinfo is None:
            raise ValueError("received_at needs a time zone")


@dataclass(frozen=True, kw_only=True)
class Instance(NewInstance):
    """An indexed instance."""

    id: int


@dataclass(frozen=True, kw_only=True)
class QuarantineEntry:
    """An object that was kept but is not used, and why. Unknown UIDs are empty."""

    path: str
    reason: str
    study_instance_uid: str = ""
    series_instance_uid: str = ""
    sop_instance_uid: str = ""
    sha256: str = ""
    calling_ae: str = ""
    peer_address: str = ""
    at: datetime


@dataclass(frozen=True, kw_only=True)
class Study:
    """A received study; ``revision`` counts how often it got new jobs."""

    study_instance_uid: str
    state: StudyState
    revision: int
    instance_count: int
    first_instance_at: datetime
    last_instance_at: datetime


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """What is known of a study that is still being received."""

    study_instance_uid: str
    revision: int
    instance_count: int
    last_instance_at: datetime
    released: bool
    """The association that brought the last instance was released in order."""
    modalities: tuple[str, ...]
    expected_instances: int | None


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """A job that a complete study asks for; ``skip_reason`` set: it is born skipped."""

    series_instance_uid: str
    engine: str | None
    route: str | None
    destinations: tuple[str, ...]
    priority: int
    inputs: tuple[str, ...]
    """SOP Instance UIDs."""
    inputs_digest: str
    skip_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One engine's work on one series of one revision of a study."""

    id: int
    study_instance_uid: str
    series_instance_uid: str
    revision: int
    engine: str | None
    route: str | None
    destinations: tuple[str, ...]
    model_version: str | None
    state: JobState
    priority: int
    attempts: int
    reason: str | None
    inputs: tuple[str, ...]
    inputs_digest: str
    predecessor_id: int | None
    lease_token: str | None
    lease_until: datetime | None
    not_before: datetime | None
    created_at: datetime
    updated_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    review_advised: bool
    summary: dict[str, Any] | None


@dataclass(frozen=True, kw_only=True)
class NewResult:
    """A result object whose file is synced; ``path`` is relative to the data folder."""

    kind: str
    study_instance_uid: str
    series_instance_uid: str
    sop_instance_uid: str
    sop_class_uid: str
    transfer_syntax_uid: str
    path: str
    size: int
    sha256: str
    attributes: dict[str, AttributeValue]
    """What query/retrieve matches and returns."""


@dataclass(frozen=True, kw_only=True)
class Result(NewResult):
    """A result object of a job that succeeded."""

    id: int
    job_id: int
    patient_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Done:
    """The job succeeded; results and their deliveries are recorded with it."""

    model_version: str
    results: tuple[NewResult, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    review_advised: bool = False


@dataclass(frozen=True, kw_only=True)
class RetryAfter:
    """Something failed that time may cure."""

    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """It will not work, however often it is tried."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class WaitingFor:
    """Something outside is missing, the model above all."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """The engine does not take these inputs."""

    reason: str
    model_version: str | None = None


Outcome = Done | RetryAfter | Failed | WaitingFor | Skipped


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One change of state: when, by whom, from what to what, why."""

    at: datetime
    who: str
    from_state: str | None
    to_state: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One result on its way to one destination."""

    id: int
    job_id: int
    destination: str
    state: DeliveryState
    attempts: int
    lease_token: str | None
    kind: str
    patient_id: str | None
    study_instance_uid: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    path: str


@dataclass(frozen=True, kw_only=True)
class Sent:
    """The destination has it: status 0000 or a warning."""

    status: int


@dataclass(frozen=True, kw_only=True)
class DeliveryRetry:
    """It did not arrive, or nobody knows; it is sent again later."""

    seconds: float
    reason: str
    status: int | None


@dataclass(frozen=True, kw_only=True)
class DeliveryFailed:
    """The destination refuses it for good."""

    reason: str
    status: int | None


DeliveryOutcome = Sent | DeliveryRetry | DeliveryFailed


@dataclass(frozen=True, kw_only=True)
class DeliverySummary:
    """A job's deliveries to one destination taken together; ``state`` is the least advanced one."""

    destination: str
    state: DeliveryState
    attempts: int
    last_status: str | None
    """Four hexadecimal digits, or None before the first answer."""
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An instance that somebody is to commit to."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """Results that a destination is to take responsibility for, under one transaction."""

    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]
    delivery_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OwedReport:
    """What a peer has asked us to commit to and waits to hear about; ``destination`` is where it listens."""

    id: int
    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]
    attempts: int
    created_at: datetime
