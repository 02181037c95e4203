"""The tables.

Times are text in UTC with microseconds (see ``db.database.time_text``), so that they compare alike in both databases.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    and_,
    literal_column,
)

from db.states import DeliveryState, JobState, ReportState, StudyState, constraint

UID = String(64)
TIME = String(32)
BIG = BigInteger().with_variant(Integer, "sqlite")

metadata = MetaData()

studies = Table(
    "studies",
    metadata,
    Column("study_instance_uid", UID, primary_key=True),
    Column("state", String(16), nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("instance_count", Integer, nullable=False),
    Column("instance_bytes", BIG, nullable=False, server_default="0"),
    Column("first_instance_at", TIME, nullable=False),
    Column("last_instance_at", TIME, nullable=False),
    Column("association", String(64), nullable=False),
    Column("released", Boolean, nullable=False),
    Column("modalities", Text, nullable=False),
    Column("expected_instances", Integer),
    CheckConstraint(constraint(StudyState), name="study_state"),
    Index("ix_studies_state", "state"),
    Index("ix_studies_association", "association"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("series_instance_uid", UID, nullable=False, index=True),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BIG, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("called_ae", String(16), nullable=False),
    Column("peer_address", String(64), nullable=False),
    Column("association", String(64), nullable=False),
    Column("received_at", TIME, nullable=False),
    Column("attributes", Text, nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("path", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("series_instance_uid", UID, nullable=False),
    Column("sop_instance_uid", UID, nullable=False, index=True),
    Column("sha256", String(64), nullable=False),
    Column("calling_ae", String(16), nullable=False),
    Column("peer_address", String(64), nullable=False),
    Column("at", TIME, nullable=False),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("series_instance_uid", UID, nullable=False, index=True),
    Column("revision", Integer, nullable=False),
    Column("engine", Text),
    Column("route", Text),
    Column("destinations", Text, nullable=False),
    Column("model_version", Text),
    Column("state", String(16), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("reason", Text),
    Column("inputs", Text, nullable=False),
    Column("inputs_digest", String(64), nullable=False),
    Column("input_bytes", BIG, nullable=False, server_default="0"),
    Column("flow", Text, nullable=False, server_default=""),
    Column("weight", Float, nullable=False, server_default="1"),
    Column("predecessor_id", BIG, ForeignKey("jobs.id")),
    Column("owner", Text),
    Column("lease_token", String(32)),
    Column("lease_until", TIME),
    Column("not_before", TIME),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("started_at", TIME),
    Column("finished_at", TIME),
    Column("review_advised", Boolean, nullable=False, default=False),
    Column("summary", Text),
    CheckConstraint(constraint(JobState), name="job_state"),
    Index("ix_jobs_state", "state", "engine"),
)

# SQLite uses a partial index only for a query that has its condition word for word, without parameters.
QUEUED = jobs.c.state == literal_column("'queued'")
READY = and_(QUEUED, jobs.c.not_before.is_(None))
"""Queued, and not before any moment: a job whose moment has come is made ready before jobs are claimed."""
LATER = and_(QUEUED, jobs.c.not_before.is_not(None))
Index(
    "ix_jobs_ready",
    *(jobs.c[name] for name in ("engine", "priority", "flow", "id")),
    # With these, SQLite need not read the rows, which are long where a series has many slices.
    *(jobs.c[name] for name in ("attempts", "input_bytes", "state", "not_before")),
    sqlite_where=READY,
    postgresql_where=READY,
)
Index("ix_jobs_later", jobs.c.state, jobs.c.not_before, sqlite_where=LATER, postgresql_where=LATER)


def flow_of(source: str, route: str | None) -> str:
    """What a job shares the workers by: its calling AE title, which has no backslash (PS3.5 table 6.2-1), and rule."""
    return f"{source}\\{route or ''}"


results = Table(
    "results",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("job_id", BIG, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("kind", String(16), nullable=False),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("series_instance_uid", UID, nullable=False, index=True),
    Column("sop_instance_uid", UID, nullable=False, unique=True),
    Column("sop_class_uid", UID, nullable=False),
    Column("transfer_syntax_uid", UID, nullable=False),
    Column("path", Text, nullable=False),
    Column("size", BIG, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("patient_id", Text, index=True),
    Column("study_date", String(8), index=True),
    Column("accession_number", Text, index=True),
    Column("attributes", Text, nullable=False),
    Column("created_at", TIME, nullable=False),
)

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("job_id", BIG, ForeignKey("jobs.id"), nullable=False, index=True),
    Column("result_id", BIG, ForeignKey("results.id"), nullable=False),
    Column("destination", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("owner", Text),
    Column("lease_token", String(32)),
    Column("lease_until", TIME),
    Column("not_before", TIME),
    Column("last_status", Integer),
    Column("reason", Text),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    Column("commitment_attempts", Integer, nullable=False, server_default="0"),
    CheckConstraint(constraint(DeliveryState), name="delivery_state"),
    Index("ix_deliveries_claim", "state", "destination", "id"),
    Index("ix_deliveries_once", "result_id", "destination", unique=True),
)

commitments = Table(
    "commitments",
    metadata,
    Column("transaction_uid", UID, primary_key=True),
    Column("destination", Text, nullable=False),
    Column("asked_at", TIME, nullable=False),
    Column("reported_at", TIME),
)

commitment_reports = Table(
    "commitment_reports",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("transaction_uid", UID, nullable=False),
    Column("destination", Text, nullable=False),
    Column("instances", Text, nullable=False),
    Column("state", String(16), nullable=False),
    Column("attempts", Integer, nullable=False, default=0),
    Column("not_before", TIME),
    Column("reason", Text),
    Column("created_at", TIME, nullable=False),
    Column("updated_at", TIME, nullable=False),
    CheckConstraint(constraint(ReportState), name="report_state"),
    Index("ix_commitment_reports_once", "transaction_uid", "destination", unique=True),
    Index("ix_commitment_reports_due", "state", "destination"),
)

history = Table(
    "history",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("subject", String(16), nullable=False),
    Column("subject_id", BIG, nullable=False),
    Column("at", TIME, nullable=False),
    Column("who", Text, nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("why", Text, nullable=False),
    Index("ix_history_subject", "subject", "subject_id"),
)

study_history = Table(
    "study_history",
    metadata,
    Column("id", BIG, primary_key=True, autoincrement=True),
    Column("study_instance_uid", UID, nullable=False, index=True),
    Column("at", TIME, nullable=False),
    Column("who", Text, nullable=False),
    Column("from_state", String(16)),
    Column("to_state", String(16), nullable=False),
    Column("why", Text, nullable=False),
)
