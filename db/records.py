"""The values that other rooms give to the database and get from it. Times are aware and in UTC."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from db.states import DeliveryState, JobState, StudyState

AttributeValue = str | list[str] | None
"""The value of a DICOM attribute as text: one value, several, or None where it is empty. Numbers stay text."""


class StoreVerdict(StrEnum):
    """What became of a received instance."""

    STORED = "stored"
    DUPLICATE = "duplicate"
    """An instance with this UID and the same bytes is stored; the caller deletes the new file."""
    CONFLICT = "conflict"
    """An instance with this UID and other bytes is stored; the new file is quarantined."""


@dataclass(frozen=True, kw_only=True)
class NewInstance:
    """A received instance whose file is already synced to the spool.

    ``path`` is relative to the data folder, ``size`` is in bytes, and ``association`` identifies the association that
    brought it.

    Raises:
        ValueError: ``received_at`` has no time zone.
    """

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
        """Refuse a time without a time zone."""
        if self.received_at.tzinfo is None:
            raise ValueError("received_at needs a time zone")


@dataclass(frozen=True, kw_only=True)
class Instance(NewInstance):
    """An indexed instance."""

    id: int


@dataclass(frozen=True, kw_only=True)
class QuarantineEntry:
    """An object that is kept but not used, and why. UIDs that are not known are empty."""

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
    """A received study. ``revision`` counts how often it has got new jobs."""

    study_instance_uid: str
    state: StudyState
    revision: int
    instance_count: int
    first_instance_at: datetime
    last_instance_at: datetime


@dataclass(frozen=True, kw_only=True)
class StudyProgress:
    """What is known of a study that is still being received.

    ``expected_instances`` is what the sender said in Number of Study Related Instances (0020,1208), if it did.
    """

    study_instance_uid: str
    revision: int
    instance_count: int
    last_instance_at: datetime
    released: bool
    """Whether the association that brought the last instance was released rather than aborted."""
    modalities: tuple[str, ...]
    expected_instances: int | None


@dataclass(frozen=True, kw_only=True)
class PlannedJob:
    """A job that a complete study needs. With a ``skip_reason`` it is created in the state skipped.

    ``engine`` and ``route`` are None where no rule takes the series. Higher ``priority`` runs first. ``source`` is the
    calling AE title that the inputs came by. Jobs of one source and route share the workers with other jobs of their
    priority in proportion to ``weight``, which is above 0.
    """

    series_instance_uid: str
    engine: str | None
    route: str | None
    destinations: tuple[str, ...]
    priority: int
    inputs: tuple[str, ...]
    """SOP Instance UIDs, in the order in which the engine gets them."""
    inputs_digest: str
    input_bytes: int
    """The size of the inputs' files together."""
    source: str
    weight: float
    skip_reason: str | None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One engine's work on one series of one revision of a study.

    ``predecessor_id`` is the job that it supersedes, and ``summary`` is JSON for people and the web. ``input_bytes`` is
    the size of the inputs' files together; it is 0 for jobs that had ended before sizes were kept.
    """

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
    input_bytes: int
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
    """A result object whose file is already synced.

    ``kind`` is ``sr``, ``overlay`` or ``segmentation``; ``path`` is relative to the data folder; ``size`` is in bytes.
    """

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
    """The attributes that query/retrieve matches and returns, by keyword."""


@dataclass(frozen=True, kw_only=True)
class Result(NewResult):
    """A result object of a job that succeeded."""

    id: int
    job_id: int
    patient_id: str | None
    created_at: datetime


@dataclass(frozen=True, kw_only=True)
class Done:
    """The job succeeded. Its results and their deliveries are recorded in the same transaction."""

    model_version: str
    results: tuple[NewResult, ...]
    summary: dict[str, Any] = field(default_factory=dict)
    review_advised: bool = False


@dataclass(frozen=True, kw_only=True)
class RetryAfter:
    """The job failed for now and is tried again after ``seconds``."""

    seconds: float
    reason: str


@dataclass(frozen=True, kw_only=True)
class Failed:
    """The job failed and would fail again."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class WaitingFor:
    """The job needs something that is missing, usually the model."""

    reason: str


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """The engine refuses these inputs."""

    reason: str
    model_version: str | None = None


Outcome = Done | RetryAfter | Failed | WaitingFor | Skipped


@dataclass(frozen=True, kw_only=True)
class HistoryEntry:
    """One change of state. ``from_state`` is None for the first entry."""

    at: datetime
    who: str
    from_state: str | None
    to_state: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """One result that is sent to one destination. ``path`` is relative to the data folder."""

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
    """The destination has the object; ``status`` is 0000 or a warning (PS3.4 table B.2-1)."""

    status: int


@dataclass(frozen=True, kw_only=True)
class DeliveryRetry:
    """The object did not arrive, or it is not known whether it did. It is sent again after ``seconds``."""

    seconds: float
    reason: str
    status: int | None


@dataclass(frozen=True, kw_only=True)
class DeliveryFailed:
    """The destination refuses the object for good. ``status`` is None where there was no answer."""

    reason: str
    status: int | None


DeliveryOutcome = Sent | DeliveryRetry | DeliveryFailed


@dataclass(frozen=True, kw_only=True)
class DeliverySummary:
    """All deliveries of a job to one destination together. ``state`` is that of the least advanced one."""

    destination: str
    state: DeliveryState
    attempts: int
    last_status: str | None
    """The DIMSE status as four hexadecimal digits; None before the first answer."""
    reason: str | None


@dataclass(frozen=True, kw_only=True)
class Reference:
    """An instance in a request for storage commitment."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, kw_only=True)
class CommitmentRequest:
    """One transaction that asks a destination to take responsibility for results."""

    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]
    delivery_ids: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class OwedReport:
    """An answer that we owe a peer which asked us for storage commitment. ``destination`` is where it listens."""

    id: int
    transaction_uid: str
    destination: str
    references: tuple[Reference, ...]
    attempts: int
    created_at: datetime
